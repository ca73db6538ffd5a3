package coord

import (
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sleeper is an operation that waits for nothing but to be woken.
func sleeper(c *Coordinator) *operation { return &operation{c: c, refs: 1, wakeAt: never} }

func newSleepers() *Coordinator {
	c := &Coordinator{origin: time.Now()}
	c.alarms.init(c.now)
	return c
}

// sleepUntil sets the alarm as setAlarm does, and reports what alarms.set does.
func (o *operation) sleepUntil(at instant) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wakeAt = at
	return o.c.alarms.set(o, at)
}

func (o *operation) awake() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wakeAt == never
}

// Each operation is woken at its time, up to two ticks late, and nobody is kept
// in a slot afterwards.
func TestAlarmsRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSleepers()
		var all []*operation
		reach := alarmTick * (alarmSlots - 2)
		for i := range 2000 {
			o := sleeper(c)
			after := time.Duration(rand.Int64N(int64(reach)))
			if !o.sleepUntil(c.now().add(after)) {
				t.Fatalf("the alarm of operation %d, in %v, is refused", i, after)
			}
			all = append(all, o)
			if i%100 == 0 {
				time.Sleep(alarmTick / 3)
			}
		}
		due := make(map[*operation]instant, len(all))
		for _, o := range all {
			o.mu.Lock()
			due[o] = o.wakeAt
			o.mu.Unlock()
		}
		for range alarmSlots {
			time.Sleep(alarmTick)
			synctest.Wait()
			now := c.now()
			for o, at := range due {
				switch awake := o.awake(); {
				case at == never: // it rang before the test looked
				case awake && now < at:
					t.Fatalf("an operation was woken at %v, not %v", time.Duration(now), time.Duration(at))
				case !awake && now > at.add(2*alarmTick):
					t.Fatalf("an operation sleeps at %v, its alarm was for %v", time.Duration(now), time.Duration(at))
				}
				if o.awake() {
					delete(due, o)
				}
			}
		}
		if n := c.alarms.waiting.Load(); n != 0 || len(due) != 0 {
			t.Errorf("%d operations lie in slots and %d sleep", n, len(due))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if c.alarms.ticking.Load() {
			t.Error("the timer is armed for nobody")
		}
	})
}

// What the wheel cannot do it says: an earlier time for one who waits already.
// A later time, or one beyond the wheel, wakes early.
func TestAlarmsSayWhatTheyCannot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newSleepers()
		o := sleeper(c)
		if !o.sleepUntil(c.now().add(20*time.Millisecond)) || !o.sleepUntil(c.now().add(time.Hour)) {
			t.Error("a time in reach, or a later one then, is refused")
		}
		if o.sleepUntil(c.now().add(time.Millisecond)) {
			t.Error("an earlier time is promised to one who lies in a later slot")
		}
		time.Sleep(20*time.Millisecond + 2*alarmTick)
		synctest.Wait()
		if !o.awake() {
			t.Error("not woken at the time that was set first")
		}
		far := sleeper(c)
		if !far.sleepUntil(c.now().add(time.Hour)) {
			t.Error("a time beyond the wheel is refused")
		}
		time.Sleep(alarmTick * (alarmSlots + 1))
		synctest.Wait()
		if !far.awake() {
			t.Error("not woken at the end of the wheel")
		}
	})
}

// Many set alarms while others ring. The race detector looks on.
func TestAlarmsAreSetWhileOthersRing(t *testing.T) {
	c := newSleepers()
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			operations := make([]*operation, 50)
			for i := range operations {
				operations[i] = sleeper(c)
			}
			for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
				for _, o := range operations {
					if o.awake() && !o.sleepUntil(c.now().add(time.Duration(rand.Int64N(int64(3*time.Millisecond))))) {
						o.wake() // as its own timer would
					}
				}
			}
			for _, o := range operations {
				for deadline := time.Now().Add(10 * time.Second); !o.awake(); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Error("an operation was never woken")
						return
					}
				}
			}
		})
	}
	group.Wait()
}
