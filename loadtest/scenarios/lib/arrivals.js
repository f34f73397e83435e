// When the nth request of a scenario should start, so that its time counts from there and not from
// when a busy generator came to it. The same sums as k6's executors make.

const WARM = 0.1; // share of the rate that a warm-up begins with
const UNIT_S = 10; // k6 takes whole numbers of requests per this many seconds

/** The rate that k6 can do, so that our sums are about the same one. */
const round = (ratePerS) => Math.round(ratePerS * UNIT_S) / UNIT_S;

/** Stages of a scenario: [{seconds, from, to}], rates in requests a second. */
export function stagesOf(profile, ratePerS, seconds) {
  return profile.stages.map(([share, from, to]) => (
    { seconds: share * seconds, from: round(from * ratePerS), to: round(to * ratePerS) }));
}

/** The rise to the first of these stages. */
export function warmUp(stages, seconds) {
  return [{ seconds, from: round(WARM * stages[0].from), to: stages[0].from }];
}

function isConstant(stages) {
  return stages.every((s) => s.from === stages[0].from && s.to === stages[0].from);
}

/** Of these stages: a function that tells the seconds from their start to the nth iteration (from 0). */
export function arrivals(stages) {
  return isConstant(stages) ? (n) => n / stages[0].from : (n) => rampS(stages, n);
}

function rampS(stages, n) {
  let left = n + 1; // a ramp's first iteration comes when the area under it is one
  let start = 0;
  for (const { seconds, from, to } of stages) {
    const area = (seconds * (from + to)) / 2;
    if (left <= area) {
      const slope = (to - from) / seconds;
      // from t + slope t² / 2 = left, in the form that is stable for small slopes
      return start + (2 * left) / (from + Math.sqrt(Math.max(0, from * from + 2 * slope * left)));
    }
    left -= area;
    start += seconds;
  }
  return start;
}

/** The options of a k6 executor that starts iterations at exactly those times. */
export function executor(stages) {
  const per = (rate) => Math.round(rate * UNIT_S);
  if (isConstant(stages)) {
    const seconds = stages.reduce((sum, s) => sum + s.seconds, 0);
    return { executor: 'constant-arrival-rate', rate: per(stages[0].from), timeUnit: `${UNIT_S}s`,
      duration: `${seconds}s` };
  }
  const ramp = [];
  stages.forEach(({ seconds, from, to }, i) => {
    if (i > 0 && from !== stages[i - 1].to) {
      throw new Error(`stage ${i + 1} does not begin where the one before ends`);
    }
    ramp.push({ duration: `${seconds}s`, target: per(to) });
  });
  return { executor: 'ramping-arrival-rate', startRate: per(stages[0].from), timeUnit: `${UNIT_S}s`,
    stages: ramp };
}
