// One GET after the other on schedule; everything comes from the environment.
import http from 'k6/http';

export const options = {
  scenarios: {
    constant: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      timeUnit: '1s',
      duration: __ENV.DURATION,
      preAllocatedVUs: Number(__ENV.CONNECTIONS),
      maxVUs: Number(__ENV.CONNECTIONS),
    },
  },
  discardResponseBodies: true,
  summaryTrendStats: ['p(50)', 'p(99)', 'p(99.9)'],
};

export default function () {
  http.get(__ENV.URL);
}
