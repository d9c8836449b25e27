use fastrand::Rng;
use proptest::prelude::*;

use super::{
    estimate::{Fit, Remedy, estimate},
    prices::{Architecture, Prices},
    schedule::{Deployment, Map, Schedule, Workload, time},
    simulate::{self, Retrier, Shards},
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
        let simulated = simulate::run((&schedule, &Shards::new(&work)), &deployment, &prices, seed);
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
        let simulated = simulate::map((&map, &[]), account, endless(), &mut Rng::with_seed(7));
        prop_assert_eq!(simulated.failed, 0);
        let work = items as f64 * seconds;
        prop_assert!(simulated.billed >= 0.65 * work && simulated.cold <= items.min(account.into()));
        let places = f64::from(concurrency.min(account));
        prop_assert!(simulated.seconds >= 0.65 * work / places);
    }
}

fn endless() -> Retrier {
    Retrier { retries: u32::MAX, ..Retrier::default() }
}

/// A new account may run 10 functions at a time. The first release had MaxConcurrency 100, tolerated 1 % of the shards, and gave
/// up a throttled call after five retries, 2 s, 4 s, ... 32 s apart with full jitter: of the 13 shards that do not find a place,
/// the last ones wait for 40 s, and a sum of five waits is 31 s on average. With shards of 20 s, 92 % of the runs fail.
#[test]
fn a_run_in_a_new_account_does_not_fail_because_of_throttling() {
    // 23 shards of 20 seconds on average.
    let of_size = |shard_size| Workload { shard_size, ms_per_image: 20.3, ..Workload::new(22_688) };
    let work = (1_024..4_096).map(of_size).find(|work| work.shards() == 23).unwrap();
    let shards = Shards::new(&work).in_random_order();
    let failed = |deployment: Deployment, retrier: Retrier| {
        let schedule = Schedule::new(&work, &deployment, prices().map_children_per_second);
        let run = |seed| simulate::run_with((&schedule, &shards), &deployment, &prices(), retrier, seed);
        (0..1_000).filter(|seed| run(*seed).fails).count()
    };
    let new_account = Deployment { account_concurrency: 10, memory: 1_769, ..Deployment::default() };
    let wide = Deployment { concurrency: 100, ..new_account };
    let before = Retrier { retries: 5, first: 2.0, longest: 60.0 };
    let share = failed(wide, before) as f64 / 1_000.0;
    assert!((0.89..0.95).contains(&share), "{share} of the runs fail with five retries");
    assert_eq!(failed(wide, Retrier::default()), 0);
    assert_eq!(failed(new_account, Retrier::default()), 0);
    let schedule = Schedule::new(&work, &wide, prices().map_children_per_second);
    assert_eq!(simulate::failure_probability((&schedule, &shards), &wide, &prices(), 100), 0.0);
    // By default, there is no throttling.
    assert_eq!(simulate::run((&schedule, &shards), &new_account, &prices(), 1).throttled, 0);
}

#[test]
fn every_line_of_the_bill_has_a_price_and_a_source_and_they_add_up() {
    let all = Workload { csv: true, uploads: true, image_key: true, ..Workload::new(1_000_000) };
    let estimate = estimate(all, Deployment::default(), prices()).unwrap();
    for line in estimate.bill.iter().chain(&estimate.monthly) {
        assert!(line.price > 0.0 && line.per >= 1.0 && line.source.starts_with("aws.amazon.com/"), "{line:?}");
        assert!(line.dollars > 0.0 || line.what.starts_with("retries"), "{line:?}");
    }
    let total: f64 = estimate.bill.iter().map(|line| line.dollars).sum();
    assert!((total - estimate.dollars.total).abs() < 1e-9, "{total} and {:?}", estimate.dollars);
    // A key of one's own costs more than the requests that it belongs to.
    let dollars = |what: &str| estimate.bill.iter().find(|line| line.what == what).unwrap().dollars;
    assert!(dollars("key requests") > dollars("S3 GET"));
    let plain = super::estimate::estimate(Workload::new(1_000_000), Deployment::default(), prices()).unwrap();
    assert!(plain.dollars.total < estimate.dollars.total - 4.0);
}

fn simulate_tail(schedule: &Schedule) -> f64 {
    // The largest shard has 1.25 times the target, and the mean has 0.77 times.
    0.7 * (schedule.featurize.seconds + schedule.merge.seconds + schedule.project.seconds)
}

#[test]
fn a_map_beyond_the_accounts_quota_is_throttled_and_ends() {
    let map = Map { items: 500, seconds: 5.0, concurrency: 100, starts: 100.0 };
    let free = simulate::map((&map, &[]), 1_000, endless(), &mut Rng::with_seed(1));
    let bounded = simulate::map((&map, &[]), 10, endless(), &mut Rng::with_seed(1));
    let over = Deployment { concurrency: 100, account_concurrency: 10, ..Deployment::default() };
    let limits = estimate(Workload::new(100_000), over, prices()).unwrap().limits;
    assert!(limits[0].what.starts_with("MaxConcurrency") && limits[0].images < 3_000, "{limits:?}");
    assert_eq!(free.throttled, 0);
    assert!(bounded.throttled > 100, "{bounded:?}");
    assert!(bounded.seconds > 5.0 * free.seconds, "{bounded:?} and {free:?}");
}

#[test]
fn the_first_user_pays_cents() {
    let deployment = Deployment { concurrency: 100, ..Deployment::default() };
    let estimate = estimate(Workload::new(22_688), deployment, prices()).unwrap();
    assert_eq!(estimate.shards, 92);
    assert!(estimate.dollars.total < 0.05, "{estimate:?}");
    assert!(estimate.seconds < 90.0, "{estimate:?}");
    assert!(estimate.dollars.total < estimate.emr.dollars / 5.0);
    assert!(estimate.seconds < estimate.emr.seconds / 10.0);
}

/// From the first request to the last, with new functions and the shards that the plan cuts. A classifier of 131
/// labels takes 4 s: its fit and a second look at all features.
#[test]
fn the_first_user_with_a_hundred_functions_waits_less_than_twenty_seconds() {
    let deployment = Deployment { concurrency: 100, ..Deployment::default() };
    for (labels, most_seconds, most_dollars) in [(0, 17.0, 0.0345), (131, 20.0, 0.035)] {
        let work = Workload { labels, ..Workload::new(22_688) };
        let estimate = estimate(work, deployment, prices()).unwrap();
        let (schedule, shards) = (Schedule::new(&work, &deployment, 100.0), Shards::new(&work));
        let seconds = (0..20).map(|seed| simulate::run((&schedule, &shards), &deployment, &prices(), seed).seconds);
        let seconds = seconds.fold(0.0, f64::max);
        println!("{labels} labels: {seconds:.1} s, ${:.4} {:?}", estimate.dollars.total, estimate.seconds_by_stage);
        assert!(seconds < most_seconds && estimate.dollars.total < most_dollars, "{seconds} {:?}", estimate.dollars);
    }
}

/// What AWS does not raise decides into how many outputs a run is split; what it raises only takes time.
#[test]
fn a_billion_images_have_a_plan_at_every_quota() {
    for account_concurrency in [10, 1_000, 10_000] {
        let deployment = Deployment { concurrency: account_concurrency, account_concurrency, ..Deployment::default() };
        let whole = Workload::new(1_000_000_000);
        let first = estimate(whole, deployment, prices()).unwrap();
        assert!(first.limits.is_sorted_by_key(|limit| limit.images));
        let Fit { shard_size, classifier, outputs } = first.fit;
        assert!(outputs > 1 && !classifier, "{:?}", first.fit);
        let part = Workload { images: whole.images.div_ceil(outputs), shard_size, labels: 0, ..whole };
        let planned = estimate(part, deployment, prices()).unwrap();
        let reached = planned.limits.iter().filter(|limit| limit.images <= part.images && limit.by != Remedy::Wait);
        assert_eq!(reached.count(), 0, "{:?}", planned.limits);
        assert_eq!(planned.fit, Fit { shard_size, classifier: false, outputs: 1 });
    }
    let small = estimate(Workload::new(22_688), Deployment::default(), prices()).unwrap();
    assert_eq!(small.fit, Fit { shard_size: 320, classifier: true, outputs: 1 });
}

#[test]
fn no_function_lists_more_than_it_has_time_for() {
    let schedule = |images| Schedule::new(&Workload::new(images), &Deployment::default(), 100.0);
    assert_eq!((schedule(1_000_000).plans, schedule(1_000_000).list.items), (1, 0));
    let large = schedule(1_000_000_000);
    assert_eq!((large.plans, large.list.items), (5, 400));
    assert!(large.longest_plan < 300.0 && large.list.seconds < 60.0, "{large:?}");
}

/// The mean of the shards that are cut is the one of the estimate, and packed images need few requests.
#[test]
fn the_estimate_has_the_shards_of_the_plan() {
    for shard_size in [128, 320, 1_024] {
        let work = Workload { shard_size, ..Workload::new(400_000) };
        let cut = work.boundaries().unwrap().lengths(work.images).len() as f64;
        assert!((cut / work.shards() as f64 - 1.0).abs() < 0.03, "{cut} {}", work.shards());
    }
    let packed = Workload { packed: true, bytes_per_image: 5_632, ..Workload::new(1_000_000) };
    assert!(packed.image_gets() < 5_000, "{}", packed.image_gets());
    let on_one_machine = Workload { shard_size: 1_024, ..packed };
    assert!(on_one_machine.image_gets() < 2_500, "{}", on_one_machine.image_gets());
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
