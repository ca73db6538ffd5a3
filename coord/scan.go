package coord

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// scanAll asks peers for the same page of a scan, and returns what those
// answered that did, and what failed.
func scanAll(ctx context.Context, peers []*peer, req ScanRequest) (answers []scanAnswer, failure error) {
	pages := make([]ScanPage, len(peers))
	errs := make([]error, len(peers))
	bounded, cancel := context.WithTimeout(ctx, migrationTimeout)
	defer cancel()
	var all sync.WaitGroup
	for i, p := range peers {
		if errs[i] = p.replica.Unavailable(); errs[i] == nil {
			all.Go(func() { pages[i], errs[i] = p.replica.Scan(bounded, req) })
		}
	}
	all.Wait()
	for i, p := range peers {
		if errs[i] == nil {
			answers = append(answers, scanAnswer{p, pages[i]})
		} else {
			failure = errors.Join(failure, fmt.Errorf("scan storage node %s: %w", p.node.ID, errs[i]))
		}
	}
	return answers, failure
}
