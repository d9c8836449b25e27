//! The same run, played event by event: environments that have to be started, the rates and quotas that bound them,
//! throttled calls that come again, shards of uneven length. Only used to check the closed form, and by
//! `pomona estimate`, which prints both.

use std::{cmp::Reverse, collections::BinaryHeap};

use fastrand::Rng;

use super::estimate::{Course, Deployment, Map, time};
use crate::cost::prices::Prices;

/// New environments of one function in ten seconds.
const NEW_ENVIRONMENTS: u32 = 1_000;
/// Waits of a throttled call, as in the state machine: doubled up to a limit, with full jitter.
const FIRST_WAIT: f64 = 2.0;
const LONGEST_WAIT: f64 = 60.0;
/// Shards differ in size by so much to both sides, and functions in speed.
const SPREAD: f64 = 0.3;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Played {
    pub seconds: f64,
    /// Calls that were refused and came again.
    pub throttled: u64,
    /// Environments that were started.
    pub cold: u64,
    /// Billed seconds of the maps' functions.
    pub billed: f64,
}

/// Plays a whole run. The same seed gives the same run. Everything above `account` places is other work of the account.
pub fn run(course: &Course, deployment: &Deployment, prices: &Prices, seed: u64) -> Played {
    let mut random = Rng::with_seed(seed);
    let account = deployment.account_concurrency;
    let single = |seconds: f64| time::COLD_START + time::TRANSITION + seconds;
    let mut played = Played { seconds: single(course.plan), ..Played::default() };
    for stage in [course.featurize, course.merge, course.project] {
        let stage = Map { starts: prices.map_children_per_second, concurrency: deployment.concurrency, ..stage };
        let one = map(&stage, account, &mut random);
        played.seconds += one.seconds;
        played.throttled += one.throttled;
        played.cold += one.cold;
        played.billed += one.billed;
    }
    played.seconds += single(course.reduce) + single(course.publish);
    played
}

/// Microseconds, so that the heap has a total order.
type Moment = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The next item may be started.
    Start,
    /// An item asks for a function: for the n-th time.
    Call(u32),
    /// A function is free again.
    Free,
}

fn moment(seconds: f64) -> Moment {
    (seconds.max(0.0) * 1e6) as Moment
}

/// Plays one map.
pub fn map(map: &Map, account: u32, random: &mut Rng) -> Played {
    let mut events = BinaryHeap::from([Reverse((0, Event::Start))]);
    let (mut left, mut open, mut running, mut warm) = (map.items, 0u32, 0u32, 0u32);
    let mut played = Played::default();
    // Environments started in this stretch of ten seconds.
    let (mut stretch, mut fresh) = (0, 0u32);
    let mut waiting_to_start = false;
    while let Some(Reverse((now, event))) = events.pop() {
        match event {
            Event::Start if left > 0 && open < map.concurrency => {
                left -= 1;
                open += 1;
                events.push(Reverse((now, Event::Call(1))));
                events.push(Reverse((now + moment(1.0 / map.starts), Event::Start)));
            }
            Event::Start => waiting_to_start = true,
            Event::Call(attempt) => {
                if now / 10_000_000 != stretch {
                    (stretch, fresh) = (now / 10_000_000, 0);
                }
                let cold = warm == 0;
                if running >= account || cold && fresh >= NEW_ENVIRONMENTS {
                    played.throttled += 1;
                    let longest = (FIRST_WAIT * 2f64.powi(attempt.min(20) as i32 - 1)).min(LONGEST_WAIT);
                    events.push(Reverse((now + moment(random.f64() * longest).max(1), Event::Call(attempt + 1))));
                    continue;
                }
                running += 1;
                let mut seconds = map.seconds * (1.0 + SPREAD * (2.0 * random.f64() - 1.0));
                if cold {
                    fresh += 1;
                    played.cold += 1;
                    seconds += time::COLD_START;
                } else {
                    warm -= 1;
                }
                played.billed += seconds;
                events.push(Reverse((now + moment(seconds + time::TRANSITION).max(1), Event::Free)));
            }
            Event::Free => {
                running -= 1;
                warm += 1;
                open -= 1;
                played.seconds = now as f64 / 1e6;
                if std::mem::take(&mut waiting_to_start) {
                    events.push(Reverse((now, Event::Start)));
                }
            }
        }
    }
    played
}
