package redis

import (
	"crypto/sha1"
	"encoding/hex"
)

// script is a step as the server takes it. It is sent by its digest, and in full
// where the server does not know it (yet, or since its restart).
type script struct {
	name   string // what it does to a claim, in errors
	source any    // a string
	digest any    // a string
	// decides: a minted claim in its answer is acted on.
	decides bool
}

func newScript(name, source string, decides bool) *script {
	sum := sha1.Sum([]byte(source))
	return &script{name: name, source: source, digest: hex.EncodeToString(sum[:]), decides: decides}
}

// Positions in a record count from 1 in Lua: 1 format, 2 stage, 3 to 18
// fingerprint, 19 to 34 attempt, 35 the head's format, 36 its flags.
//
// ARGV[3] of reserve and mint is "1" where replicas are waited for. Then a minted
// claim that is found is written again, unchanged, so that the WAIT behind it on
// this connection covers it: it may be too fresh for the replicas to have it.
var (
	// reserveScript: ARGV record, lease in ms, wait. It answers 1 where the
	// record was set, else the record that stands.
	reserveScript = newScript("reserve", `
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
local v = redis.call('GET', KEYS[1])
if v and ARGV[3] == '1' and string.byte(v, 1) == 1 and string.byte(v, 2) > 1 then
redis.call('SETRANGE', KEYS[1], 1, string.sub(v, 2, 2))
end
return v`, true)

	// mintScript: ARGV attempt, head, wait, TTL in ms. It answers the record that
	// stands, or 0 where there is none.
	mintScript = newScript("mint", `
local v = redis.call('GET', KEYS[1])
if not v then return 0 end
if string.byte(v, 1) ~= 1 then return v end
if string.byte(v, 2) == 1 then
if string.sub(v, 19, 34) == ARGV[1] then
v = '\1\2' .. string.sub(v, 3, 34) .. ARGV[2]
redis.call('SET', KEYS[1], v, 'PX', ARGV[4])
end
elseif ARGV[3] == '1' then
redis.call('SETRANGE', KEYS[1], 1, string.sub(v, 2, 2))
end
return v`, true)

	// completeScript: ARGV identity, stage. SETRANGE keeps the expiry.
	completeScript = newScript("complete", `
local v = redis.call('GET', KEYS[1])
if v and string.byte(v, 1) == 1 and string.byte(v, 2) > 1 and string.byte(v, 2) < string.byte(ARGV[2])
and string.sub(v, 35, 35) == string.sub(ARGV[1], 1, 1)
and string.sub(v, 37, 34 + #ARGV[1]) == string.sub(ARGV[1], 3) then
redis.call('SETRANGE', KEYS[1], 1, ARGV[2])
end
return 1`, false)

	// releaseScript: ARGV attempt.
	releaseScript = newScript("release", `
local v = redis.call('GET', KEYS[1])
if v and string.byte(v, 1) == 1 and string.byte(v, 2) == 1 and string.sub(v, 19, 34) == ARGV[1] then
redis.call('DEL', KEYS[1])
end
return 1`, false)
)
