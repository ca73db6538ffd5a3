//go:build !unix

package tuning

import "errors"

func usageNow() (usage, error) { return usage{}, errors.ErrUnsupported }
