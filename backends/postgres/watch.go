package postgres

import (
	"context"

	"github.com/pairdb/coordinator/coord"
)

// maxUntold bounds the changes that a watcher has yet to be told of; of more
// it is told that they are lost.
const maxUntold = 256

// watcher is a Watch under way.
type watcher struct {
	changes chan coord.Change
	lost    chan struct{}
}

// tell does not wait.
func (w *watcher) tell(c coord.Change) {
	if !c.Lost {
		select {
		case w.changes <- c:
			return
		default:
		}
	}
	select {
	case w.lost <- struct{}{}:
	default: // it will be told already
	}
}

// Watch implements coord.Watcher. It begins with a Lost, because of what was
// changed before it was called.
func (s *Store) Watch(ctx context.Context, changed func(coord.Change)) {
	w := &watcher{changes: make(chan coord.Change, maxUntold), lost: make(chan struct{}, 1)}
	s.session.mu.Lock()
	s.session.watchers[w] = struct{}{}
	s.session.mu.Unlock()
	defer func() {
		s.session.mu.Lock()
		delete(s.session.watchers, w)
		s.session.mu.Unlock()
	}()
	w.tell(coord.Change{Lost: true})
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-w.lost:
			w.forget()
			changed(coord.Change{Lost: true})
		case c := <-w.changes:
			changed(c)
		}
	}
}

// forget drops the changes that a Lost stands for.
func (w *watcher) forget() {
	for {
		select {
		case <-w.changes:
		default:
			return
		}
	}
}
