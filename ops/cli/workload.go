package cli

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
)

// sizes are the sizes of values, each as likely as the other, in bytes.
type sizes struct{ least, most int }

// parseSizes reads "100" or "100-4000".
func parseSizes(text string) (sizes, error) {
	low, high, isRange := strings.Cut(text, "-")
	if !isRange {
		high = low
	}
	least, err := strconv.Atoi(low)
	most, err2 := strconv.Atoi(high)
	if err != nil || err2 != nil || least < 0 || most < least || most > maxValueBytes {
		return sizes{}, wrongUsage("-value-size %q is not a number of bytes, or a range such as 100-4000, up to %d", text, maxValueBytes)
	}
	return sizes{least, most}, nil
}

func (s sizes) pick(random *rand.Rand) int { return s.least + random.IntN(s.most-s.least+1) }

func (s sizes) String() string {
	if s.least == s.most {
		return strconv.Itoa(s.least)
	}
	return strconv.Itoa(s.least) + "-" + strconv.Itoa(s.most)
}

// keys chooses which of n keys the next request is for.
type keys interface {
	// next returns a number from 0 up to n. It is safe for concurrent use with
	// different sources of random numbers.
	next(*rand.Rand) int
}

type uniformKeys int

func (n uniformKeys) next(random *rand.Rand) int { return random.IntN(int(n)) }

// zipfSkew is the exponent that load generators have used since YCSB: of
// 10,000 keys the most popular one gets a tenth of the requests.
const zipfSkew = 0.99

// zipfKeys draws the key of rank r, from 0, with a probability in proportion to
// 1/(r+1)^skew, by the method of Gray et al., "Quickly Generating Billion-Record
// Synthetic Databases", 1994.
type zipfKeys struct {
	n          float64
	alpha      float64
	zeta       float64 // the sum of 1/i^skew up to n
	eta        float64
	secondUpTo float64 // where the second key's part ends, times zeta
}

func newZipfKeys(n int) *zipfKeys {
	z := &zipfKeys{n: float64(n), alpha: 1 / (1 - zipfSkew)}
	for i := range n {
		z.zeta += math.Pow(float64(i+1), -zipfSkew)
	}
	z.secondUpTo = 1 + math.Pow(0.5, zipfSkew)
	z.eta = (1 - math.Pow(2/z.n, 1-zipfSkew)) / (1 - z.secondUpTo/z.zeta)
	return z
}

func (z *zipfKeys) next(random *rand.Rand) int {
	u := random.Float64()
	switch part := u * z.zeta; {
	case part < 1 || z.n < 2:
		return 0
	case part < z.secondUpTo || z.n < 3:
		return 1
	}
	return min(int(z.n*math.Pow(z.eta*u-z.eta+1, z.alpha)), int(z.n)-1)
}
