package coord

import "context"

// migrations carries out the changes of topology that wait.
type migrations struct {
	c    *Coordinator
	wake chan struct{} // capacity 1
}

// look makes the leader look for migrations now.
func (m *migrations) look() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *migrations) lead(ctx context.Context) {}
