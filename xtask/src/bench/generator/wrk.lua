-- What wrk lacks: a pace, and a summary that a program can read.
--
-- With an argument, each connection waits so many milliseconds on average before every request,
-- from none to twice as many, so that connections don't move in step. Its timers go by whole
-- milliseconds; what is left over decides by chance. The request itself stays the static one.

function init(args)
   local mean_ms = tonumber(args[1] or "")
   if mean_ms then
      math.randomseed(1)
      function delay()
         return math.floor(math.random() * 2 * mean_ms + math.random())
      end
   end
end

function done(summary, latency, requests)
   local errors = 0
   for _, count in pairs(summary.errors) do
      errors = errors + count
   end
   io.write(string.format(
      '{"requests":%d,"duration_us":%d,"errors":%d,"p50_us":%.1f,"p99_us":%.1f,"p999_us":%.1f}\n',
      summary.requests, summary.duration, errors,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
