//! A simulation of a run, event by event: execution environments that have to be started, rates and quotas, throttled calls
//! that are retried, and shards of uneven length.
//!
//! It checks the closed form of [`super::estimate`], and `pomona aws estimate` prints both.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;

use super::{
    prices::Prices,
    schedule::{Deployment, Map, Schedule, Workload, time},
};

/// Execution environments that Lambda starts for one function within [`SCALING_PERIOD`].
const NEW_ENVIRONMENTS: u32 = 1_000;
const SCALING_PERIOD: Moment = 10_000_000;
/// How the state machine repeats a throttled call: a wait in seconds that doubles up to a limit, with full jitter.
const THROTTLED_RETRIES: u32 = 100;
const FIRST_WAIT: f64 = 1.0;
const LONGEST_WAIT: f64 = 30.0;
/// Items of the same size take between 1 - `SPREAD` and 1 + `SPREAD` times their mean, because functions differ in speed.
const SPREAD: f64 = 0.1;
/// Images whose shards are cut for a simulation. Larger runs have their lengths again and again.
const CUT: u64 = 200_000;

/// Lengths of the shards of a run, as the plan cuts them.
#[derive(Clone, Debug)]
pub struct Shards {
    /// Lengths relative to their mean, and whether these are all shards.
    lengths: Vec<f64>,
    are_all: bool,
    order: Order,
}

/// The order of the work list of `featurize`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    LargestFirst,
    Random,
}

impl Shards {
    /// Cuts the shards of a run.
    pub fn new(work: &Workload) -> Self {
        let images = work.images.min(CUT);
        let lengths = work.boundaries().map_or_else(Vec::new, |boundaries| boundaries.lengths(images));
        let mean = images as f64 / lengths.len().max(1) as f64;
        let lengths = lengths.into_iter().map(|length| length as f64 / mean).collect();
        let are_all = images == work.images;
        // A run with more shards than were cut is like many of those one after the other.
        let order = if are_all { Order::LargestFirst } else { Order::Random };
        Shards { lengths, are_all, order }
    }

    /// The same in random order, as in the first release.
    #[cfg(test)]
    pub(super) fn in_random_order(self) -> Self {
        Shards { order: Order::Random, ..self }
    }

    /// The map over these shards, with their number if it is known, and the relative lengths of its items.
    fn items(&self, order: Order, (map, shards): (Map, u64), random: &mut Rng) -> (Map, Vec<f64>) {
        let mut lengths = self.lengths.clone();
        match order {
            Order::LargestFirst => lengths.sort_unstable_by(|a, b| b.total_cmp(a)),
            Order::Random => random.shuffle(&mut lengths),
        }
        let together = usize::try_from(shards / map.items.max(1)).unwrap_or(1).max(1);
        if together == 1 && self.are_all {
            let (all, now) = (map.items as f64, lengths.len() as f64);
            return (Map { items: lengths.len() as u64, seconds: map.seconds * all / now, ..map }, lengths);
        }
        let items = lengths.chunks(together).map(|batch| batch.iter().sum::<f64>() / batch.len() as f64);
        (map, items.collect())
    }
}

/// Result of a simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Simulated {
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Calls that were throttled and retried.
    pub throttled: u64,
    /// Execution environments that were started.
    pub cold: u64,
    /// Billed seconds of the functions of all maps.
    pub billed: f64,
    /// Items whose calls were throttled after all retries.
    pub failed: u64,
    /// Whether the run fails: more items failed than a map tolerates.
    pub fails: bool,
}

/// How throttled calls are repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retrier {
    /// Repetitions, at most.
    pub retries: u32,
    /// First wait in seconds. The following ones double.
    pub first: f64,
    /// Longest wait in seconds.
    pub longest: f64,
}

impl Default for Retrier {
    /// That of the state machine.
    fn default() -> Self {
        Retrier { retries: THROTTLED_RETRIES, first: FIRST_WAIT, longest: LONGEST_WAIT }
    }
}

/// The share of `runs` simulated runs that fail.
pub fn failure_probability(work: (&Schedule, &Shards), deployment: &Deployment, prices: &Prices, runs: u64) -> f64 {
    let failed = (0..runs).filter(|seed| run(work, deployment, prices, *seed).fails).count();
    failed as f64 / runs.max(1) as f64
}

/// Simulates a whole run; the same seed gives the same result. The functions of the run are the only ones of the account.
pub fn run(work: (&Schedule, &Shards), deployment: &Deployment, prices: &Prices, seed: u64) -> Simulated {
    run_with(work, deployment, prices, Retrier::default(), seed)
}

/// [`run`] with another retrier.
pub fn run_with(
    (schedule, shards): (&Schedule, &Shards),
    deployment: &Deployment,
    prices: &Prices,
    retrier: Retrier,
    seed: u64,
) -> Simulated {
    let mut random = Rng::with_seed(seed);
    let account = deployment.account_concurrency;
    let mut total = Simulated { seconds: schedule.all_plans(), ..Simulated::default() };
    let tolerated = deployment.tolerated_percent / 100.0;
    let number = schedule.shards;
    let (featurize, of_featurize) = shards.items(shards.order, (schedule.featurize, number), &mut random);
    let (project, of_project) = shards.items(Order::Random, (schedule.project, number), &mut random);
    let merges: Vec<f64> = schedule.calls_of_merge.iter().map(|call| call / schedule.merge.seconds).collect();
    for (stage, lengths, tolerated) in [
        (schedule.list, &[][..], 0.0),
        (featurize, &of_featurize, tolerated),
        (schedule.merge, &merges, 0.0),
        (project, &of_project, 0.0),
    ] {
        let stage = Map { starts: prices.map_children_per_second, concurrency: deployment.concurrency, ..stage };
        let one = map((&stage, lengths), account, retrier, &mut random);
        total.failed += one.failed;
        total.fails |= one.failed as f64 > tolerated * stage.items as f64;
        total.seconds += one.seconds;
        total.throttled += one.throttled;
        total.cold += one.cold;
        total.billed += one.billed;
    }
    total.seconds += schedule.reduces() + Schedule::one(schedule.publish);
    total
}

/// Simulates one map, whose items have these lengths, again and again, relative to their mean; without lengths, all are
/// alike. `account` is the Lambda concurrency of the account.
pub fn map((map, lengths): (&Map, &[f64]), account: u32, retrier: Retrier, random: &mut Rng) -> Simulated {
    let events = BinaryHeap::from([Reverse((0, Event::Start))]);
    let environments = Environments { account, running: 0, warm: 0, period: 0, started: 0 };
    let simulation = MapSimulation {
        map,
        lengths,
        retrier,
        random,
        events,
        environments,
        left: map.items,
        called: 0,
        open: 0,
        waits_for_place: false,
        result: Simulated::default(),
    };
    simulation.run()
}

/// Microseconds since the start of the map. An integer, so that the heap has a total order.
type Moment = u64;

fn moment(seconds: f64) -> Moment {
    (seconds.max(0.0) * 1e6) as Moment
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next item may start.
    Start,
    /// An item calls its function; the number of the attempt, from 1.
    Call(u32),
    /// A function ends.
    End,
}

/// The execution environments of the function.
struct Environments {
    /// Concurrency of the account.
    account: u32,
    running: u32,
    /// Idle environments.
    warm: u32,
    /// The current scaling period, and the environments started in it.
    period: Moment,
    started: u32,
}

/// How a call was answered.
enum Call {
    Throttled,
    /// A new environment had to be started.
    Cold,
    Warm,
}

impl Environments {
    fn call(&mut self, now: Moment) -> Call {
        if now / SCALING_PERIOD != self.period {
            (self.period, self.started) = (now / SCALING_PERIOD, 0);
        }
        let cold = self.warm == 0;
        if self.running >= self.account || cold && self.started >= NEW_ENVIRONMENTS {
            return Call::Throttled;
        }
        self.running += 1;
        if cold {
            self.started += 1;
            Call::Cold
        } else {
            self.warm -= 1;
            Call::Warm
        }
    }

    fn end(&mut self) {
        self.running -= 1;
        self.warm += 1;
    }
}

struct MapSimulation<'a> {
    map: &'a Map,
    lengths: &'a [f64],
    retrier: Retrier,
    random: &'a mut Rng,
    events: BinaryHeap<Reverse<(Moment, Event)>>,
    environments: Environments,
    /// Items that have not started.
    left: u64,
    /// Calls that were not throttled.
    called: usize,
    /// Items that have started and not ended.
    open: u32,
    /// Whether the next item waits until another one ends.
    waits_for_place: bool,
    result: Simulated,
}

impl MapSimulation<'_> {
    fn run(mut self) -> Simulated {
        while let Some(Reverse((now, event))) = self.events.pop() {
            match event {
                Event::Start => self.start(now),
                Event::Call(attempt) => self.call(now, attempt),
                Event::End => self.end(now),
            }
        }
        self.result
    }

    fn push(&mut self, at: Moment, event: Event) {
        self.events.push(Reverse((at, event)));
    }

    fn start(&mut self, now: Moment) {
        if self.left == 0 || self.open >= self.map.concurrency {
            self.waits_for_place = true;
            return;
        }
        self.left -= 1;
        self.open += 1;
        self.push(now, Event::Call(1));
        self.push(now + moment(1.0 / self.map.starts), Event::Start);
    }

    fn call(&mut self, now: Moment, attempt: u32) {
        let start_up = match self.environments.call(now) {
            Call::Throttled if attempt > self.retrier.retries => {
                self.result.failed += 1;
                return self.place_is_free(now);
            }
            Call::Throttled => {
                self.result.throttled += 1;
                let longest = (self.retrier.first * 2f64.powi(attempt.min(20) as i32 - 1)).min(self.retrier.longest);
                let wait = moment(self.random.f64() * longest).max(1);
                return self.push(now + wait, Event::Call(attempt + 1));
            }
            Call::Cold => {
                self.result.cold += 1;
                time::COLD_START
            }
            Call::Warm => 0.0,
        };
        let length = self.lengths.get(self.called % self.lengths.len().max(1)).copied().unwrap_or(1.0);
        self.called += 1;
        let seconds = self.map.seconds * length * (1.0 + SPREAD * (2.0 * self.random.f64() - 1.0)) + start_up;
        self.result.billed += seconds;
        self.push(now + moment(seconds + time::TRANSITION).max(1), Event::End);
    }

    fn end(&mut self, now: Moment) {
        self.environments.end();
        self.place_is_free(now);
    }

    fn place_is_free(&mut self, now: Moment) {
        self.open -= 1;
        self.result.seconds = now as f64 / 1e6;
        if std::mem::take(&mut self.waits_for_place) {
            self.push(now, Event::Start);
        }
    }
}
