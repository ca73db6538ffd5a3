package coord

import (
	"math"
	"sync/atomic"
	"time"
)

// alarms wake operations at set times, at most two alarmTicks late. One timer of
// the runtime serves all of them: one for each operation costs several times as
// much, and most operations end before they are to be woken. It is a timing
// wheel of one level (Varghese and Lauck, "Hashed and Hierarchical Timing
// Wheels", 1987): an operation lies in the slot of its time. One whose time is
// further away than the wheel reaches is woken at the end of it, too early, which
// costs it nothing but to be set again.
//
// It has no lock. A slot is a list that many add to and one takes as a whole.
type alarms struct {
	now     func() instant
	slots   [alarmSlots]atomic.Pointer[operation]
	waiting atomic.Int64 // operations in slots
	passed  atomic.Int64 // the latest tick whose slot is not looked at again
	ticking atomic.Bool  // the timer is armed, or tick is at work
	timer   *time.Timer
}

const (
	alarmTick  = 500 * time.Microsecond
	alarmSlots = 1024 // a power of two
)

// alarm is an operation's place in a slot. An operation that has ended, or was
// reused since, stays there until its time.
type alarm struct {
	next *operation
	due  atomic.Int64 // the slot's tick, 0 while it lies in none
}

func (a *alarms) init(now func() instant) {
	a.now = now
	a.timer = time.AfterFunc(math.MaxInt64, a.tick)
	a.timer.Stop()
}

// set makes an operation, whose lock is held, wake at the time or before. It
// fails where the operation waits for a later time already, or the time has
// come meanwhile: then it needs a timer of its own.
func (a *alarms) set(o *operation, at instant) bool {
	last := int64(a.now()) / int64(alarmTick)
	due := min(max(int64(at)/int64(alarmTick), last)+1, last+alarmSlots-1)
	if waits := o.alarm.due.Load(); waits != 0 {
		return waits <= due
	}
	o.alarm.due.Store(due)
	slot := &a.slots[due%alarmSlots]
	for {
		first := slot.Load()
		o.alarm.next = first
		if slot.CompareAndSwap(first, o) {
			break
		}
	}
	a.waiting.Add(1)
	a.run()
	return a.passed.Load() < due
}

// run arms the timer unless somebody has.
func (a *alarms) run() {
	if !a.ticking.Load() && a.ticking.CompareAndSwap(false, true) {
		a.timer.Reset(alarmTick)
	}
}

// tick wakes the operations whose time has come, and arms the timer again while
// there are others.
func (a *alarms) tick() {
	last := int64(a.now()) / int64(alarmTick)
	// Whoever adds to a slot looks at passed after that, so either sees that it
	// is too late or is found here.
	from := max(a.passed.Swap(last), last-alarmSlots) + 1
	for due := from; due <= last; due++ {
		o := a.slots[due%alarmSlots].Swap(nil)
		for o != nil {
			next := o.alarm.next
			o.alarm.next = nil
			o.alarm.due.Store(0) // from here on it may be set again
			a.waiting.Add(-1)
			o.wake()
			o = next
		}
	}
	if a.waiting.Load() > 0 {
		a.timer.Reset(alarmTick)
		return
	}
	a.ticking.Store(false)
	if a.waiting.Load() > 0 {
		a.run() // it was added to since
	}
}
