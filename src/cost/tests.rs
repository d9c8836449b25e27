use fastrand::Rng;
use proptest::prelude::*;

use super::{
    estimate::estimate,
    prices::{Architecture, Prices},
    schedule::{Deployment, Map, Schedule, Workload, time},
    simulate,
};
use crate::ErrorKind;

fn prices() -> Prices {
    Prices::new("us-east-1", Architecture::X86_64).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Start-up times and uneven shards change the time by at most a fifth and a third of a shard, for any number of images.
    /// Above the account's quota calls are throttled, which the closed form does not model: see the limits.
    #[test]
    fn the_closed_form_agrees_with_the_simulation(
        images in 2_000u64..3_000_000,
        ms_per_image in 5.0f64..200.0,
        shard_size in 128u32..4_096,
        concurrency in 1u32..900,
        seed in any::<u64>(),
    ) {
        let work = Workload { images, ms_per_image, shard_size, ..Workload::new(images) };
        let deployment = Deployment { concurrency, ..Deployment::default() };
        let prices = prices();
        let estimate = estimate(work, deployment, prices.clone()).unwrap();
        let schedule = Schedule::new(&work, &deployment, prices.map_children_per_second);
        let simulated = simulate::run(&schedule, &deployment, &prices, seed);
        let ratio = simulated.seconds / estimate.seconds;
        // With few shards, it matters whether the last one is long.
        let tail = simulate_tail(&schedule) / estimate.seconds;
        prop_assert!((0.8 - tail..1.2 + tail).contains(&ratio), "{ratio} for {estimate:?}, simulated {simulated:?}");
        let warm = schedule.featurize.items as f64 * schedule.featurize.seconds
            + schedule.merge.items as f64 * schedule.merge.seconds
            + schedule.project.items as f64 * schedule.project.seconds;
        let starts = simulated.cold as f64 * time::COLD_START;
        prop_assert!(simulated.billed > 0.65 * warm && simulated.billed < 1.35 * warm + starts);
    }

    /// Every item runs once, for any concurrency and quota.
    #[test]
    fn a_simulated_map_ends(items in 0u64..3_000, seconds in 0.01f64..30.0, concurrency in 1u32..200, account in 1u32..100) {
        let map = Map { items, seconds, concurrency, starts: 100.0 };
        let simulated = simulate::map(&map, account, &mut Rng::with_seed(7));
        let work = items as f64 * seconds;
        prop_assert!(simulated.billed >= 0.65 * work && simulated.cold <= items.min(account.into()));
        let places = f64::from(concurrency.min(account));
        prop_assert!(simulated.seconds >= 0.65 * work / places);
    }
}

fn simulate_tail(schedule: &Schedule) -> f64 {
    0.3 * (schedule.featurize.seconds + schedule.merge.seconds + schedule.project.seconds)
}

#[test]
fn a_map_beyond_the_accounts_quota_is_throttled_and_ends() {
    let map = Map { items: 500, seconds: 5.0, concurrency: 100, starts: 100.0 };
    let free = simulate::map(&map, 1_000, &mut Rng::with_seed(1));
    let bounded = simulate::map(&map, 10, &mut Rng::with_seed(1));
    let over = Deployment { account_concurrency: 10, ..Deployment::default() };
    let limits = estimate(Workload::new(100_000), over, prices()).unwrap().limits;
    assert!(limits[0].what.starts_with("MaxConcurrency") && limits[0].images == 2_560, "{limits:?}");
    assert_eq!(free.throttled, 0);
    assert!(bounded.throttled > 100, "{bounded:?}");
    assert!(bounded.seconds > 5.0 * free.seconds, "{bounded:?} and {free:?}");
}

#[test]
fn the_first_user_pays_cents() {
    let estimate = estimate(Workload::new(22_688), Deployment::default(), prices()).unwrap();
    assert_eq!(estimate.shards, 89);
    assert!(estimate.dollars.total < 0.05, "{estimate:?}");
    assert!(estimate.seconds < 90.0, "{estimate:?}");
    assert!(estimate.dollars.total < estimate.emr.dollars / 5.0);
    assert!(estimate.seconds < estimate.emr.seconds / 10.0);
}

#[test]
fn at_a_hundred_million_images_the_plan_is_the_first_limit() {
    let estimate = estimate(Workload::new(100_000_000), Deployment::default(), prices()).unwrap();
    let first = &estimate.limits[0];
    assert!(first.what.starts_with("plan"), "{first:?}");
    assert!((1_000_000..100_000_000).contains(&first.images), "{first:?}");
    assert!(estimate.limits.is_sorted_by_key(|limit| limit.images));
}

#[test]
fn nonsense_is_refused() {
    let refused = |work: Workload, deployment: Deployment| {
        estimate(work, deployment, prices()).unwrap_err().is(ErrorKind::InputInvalid)
    };
    assert!(refused(Workload::new(0), Deployment::default()));
    assert!(refused(Workload { ms_per_image: f64::NAN, ..Workload::new(5) }, Deployment::default()));
    assert!(refused(Workload::new(5), Deployment { concurrency: 0, ..Deployment::default() }));
}
