package main

import "fmt"

// bar is what a figure must reach, and what it should.
type bar struct {
	pass, aim float64
	most      bool // the figure is a cost: it must stay under both
}

func atLeast(pass, aim float64) *bar { return &bar{pass: pass, aim: aim} }
func atMost(pass, aim float64) *bar  { return &bar{pass: pass, aim: aim, most: true} }

// verdict is a figure held against its bar.
type verdict struct {
	What   string  `json:"what"`
	Figure float64 `json:"figure"`
	Pass   float64 `json:"pass"`
	Aim    float64 `json:"aim,omitempty"` // 0: none
	Most   bool    `json:"at_most"`
	Result string  `json:"result"`
}

// Results of a verdict.
const (
	resultAim   = "AIM"
	resultPass  = "PASS"
	resultBelow = "below"
)

func (b *bar) judge(what string, figure float64) verdict {
	v := verdict{What: what, Figure: figure, Pass: b.pass, Aim: b.aim, Most: b.most, Result: resultBelow}
	reached := func(mark float64) bool {
		if b.most {
			return figure <= mark
		}
		return figure >= mark
	}
	switch {
	case b.aim != 0 && reached(b.aim):
		v.Result = resultAim
	case reached(b.pass):
		v.Result = resultPass
	}
	return v
}

func (v *verdict) cells() []string {
	sign := ">="
	if v.Most {
		sign = "<="
	}
	aim := ""
	if v.Aim != 0 {
		aim = fmt.Sprintf("%s %.4g", sign, v.Aim)
	}
	return []string{v.What, fmt.Sprintf("%.3f", v.Figure), fmt.Sprintf("%s %.4g", sign, v.Pass), aim, v.Result}
}
