use super::*;
use crate::plugin::fixtures::{cut, found, gpus};
use crate::plugin::random::Random;
use crate::plugin::{Config, MigStrategy, config, offer};

fn uuids(count: usize) -> Vec<String> {
    gpus(count as u32).gpus.into_iter().filter_map(|gpu| gpu.uuid).collect()
}

fn whole(count: usize) -> Resource {
    offer(&Config::default(), &gpus(count as u32)).expect("an offer").resources.remove(0)
}

/// Every split of these cards into groups of `size` and at most one smaller one, each tried by hand.
fn every_split(
    left: &[usize],
    size: usize,
    smaller_used: bool,
    so_far: &mut Vec<Vec<usize>>,
    each: &mut dyn FnMut(&[Vec<usize>]),
) {
    let Some((&first, rest)) = left.split_first() else { return each(so_far) };
    let smaller = left.len() % size;
    let sizes = if smaller_used || smaller == 0 { vec![size] } else { vec![size, smaller] };
    for take in sizes {
        for mask in 0_u32..1 << rest.len() {
            if mask.count_ones() as usize != take - 1 {
                continue;
            }
            let of = |wanted: u32| {
                rest.iter().enumerate().filter(move |(at, _)| mask >> at & 1 == wanted).map(|(_, one)| *one)
            };
            let mut group = vec![first];
            group.extend(of(1));
            so_far.push(group);
            let others: Vec<usize> = of(0).collect();
            every_split(&others, size, smaller_used || take < size, so_far, each);
            so_far.pop();
        }
    }
}

/// The objective itself, by trying all: the sum of the best split that has a full group with `must`, that group's own
/// score, what it leaves, and the first such group.
fn brute(scores: &[Vec<u32>], cards: &[usize], must: &[usize], size: usize) -> Vec<usize> {
    let own = |group: &[usize]| {
        let pairs = group.iter().enumerate().flat_map(|(at, &a)| group[at + 1..].iter().map(move |&b| scores[a][b]));
        pairs.sum::<u32>()
    };
    let mut best: Option<(u32, u32, u32, std::cmp::Reverse<Vec<usize>>)> = None;
    every_split(cards, size, false, &mut Vec::new(), &mut |groups| {
        let total = groups.iter().map(|group| own(group)).sum::<u32>();
        for group in groups.iter().filter(|group| group.len() == size && must.iter().all(|one| group.contains(one))) {
            let left: Vec<usize> = cards.iter().copied().filter(|card| !group.contains(card)).collect();
            let candidate = (total, own(group), own(&left), std::cmp::Reverse(group.clone()));
            if best.as_ref().is_none_or(|found| candidate > *found) {
                best = Some(candidate);
            }
        }
    });
    best.map(|(.., std::cmp::Reverse(group))| group).unwrap_or_default()
}

/// Trees and links as machines have them, and any numbers at all.
fn some_scores(random: &mut Random, count: usize) -> Vec<Vec<u32>> {
    let kind = random.below(3);
    let links: Vec<usize> = (0..count).map(|_| random.below(3)).collect();
    let mut scores = vec![vec![0; count]; count];
    for a in 0..count {
        for b in 0..a {
            let value = match kind {
                0 => [10, 20, 30, 40, 50, 60][random.below(6)],
                1 => (if a / 4 == b / 4 { 50 } else { 10 }) + 100 * u32::from(links[a] == links[b]),
                _ => random.below(2000) as u32,
            };
            (scores[a][b], scores[b][a]) = (value, value);
        }
    }
    scores
}

/// What is chosen is what trying everything finds, for every number of cards up to 8.
fn holds_to_brute_force(rounds: u64) -> u64 {
    let mut random = Random::new(8);
    for round in 0..rounds {
        let count = 1 + random.below(8);
        let (resource, all) = (whole(count), uuids(count));
        let scores = some_scores(&mut random, count);
        let topology = Topology::of_scores(&all, scores.clone());
        let cards: Vec<usize> = (0..count).filter(|_| random.below(4) > 0).collect();
        if cards.is_empty() {
            continue;
        }
        let size = 1 + random.below(cards.len());
        let must: Vec<usize> = cards.iter().copied().filter(|_| random.below(4) == 0).take(size).collect();
        let ids = |cards: &[usize]| cards.iter().map(|&at| all[at].clone()).collect::<Vec<_>>();
        let mut available = ids(&cards);
        random.shuffle(&mut available);
        let chosen = prefer(&resource, &topology, SharedPolicy::Distributed, &available, &ids(&must), size);
        assert_eq!(
            chosen,
            Ok(ids(&brute(&scores, &cards, &must, size))),
            "round {round}: {cards:?} {must:?} {size} {scores:?}"
        );
    }
    rounds
}

#[test]
fn as_good_as_trying_everything() {
    holds_to_brute_force(600);
}

#[test]
#[ignore = "some minutes without optimisation"]
fn as_good_as_trying_everything_20_000_times() {
    println!("{} random machines of up to 8 cards: the same as brute force", holds_to_brute_force(20_000));
}

/// Sixteen cards: bounded time for every size, all free or some.
#[test]
fn sixteen_cards_take_no_time_to_speak_of() {
    let (resource, all) = (whole(16), uuids(16));
    let mut random = Random::new(16);
    let mut worst = (std::time::Duration::ZERO, 0);
    let topology = Topology::of_scores(&all, some_scores(&mut random, 16));
    for size in 1..=16 {
        let start = std::time::Instant::now();
        let chosen = prefer(&resource, &topology, SharedPolicy::Distributed, &all, &[], size).expect("chosen");
        worst = worst.max((start.elapsed(), size));
        assert_eq!(chosen.len(), size);
    }
    println!("16 cards: at most {:?} (size {})", worst.0, worst.1);
    // trying every split would take hours
    assert!(worst.0.as_secs() < 20, "{worst:?}");
}

/// More than sixteen are grown and improved: two racks with near cards within are not mixed.
#[test]
fn more_than_sixteen_are_chosen_near_together() {
    let (resource, all) = (whole(24), uuids(24));
    let near = |a: usize, b: usize| {
        if a == b {
            0
        } else if a % 3 == b % 3 {
            100
        } else {
            10
        }
    };
    let topology = Topology::of_scores(&all, (0..24).map(|a| (0..24).map(|b| near(a, b)).collect()).collect());
    let must = [all[4].clone()];
    let chosen = prefer(&resource, &topology, SharedPolicy::Distributed, &all, &must, 8).expect("chosen");
    assert_eq!(chosen, (0..8).map(|at| all[at * 3 + 1].clone()).collect::<Vec<_>>());
}

#[test]
fn a_pair_that_would_break_a_better_split_is_left() {
    // 0-1 are near; but 0-2 and 1-3 are nearer in sum than 0-1 and 2-3
    let pairs = [(0, 1, 300), (0, 2, 290), (1, 3, 290), (2, 3, 10), (0, 3, 10), (1, 2, 10)];
    let mut scores = vec![vec![0; 4]; 4];
    for (a, b, value) in pairs {
        (scores[a][b], scores[b][a]) = (value, value);
    }
    let all = uuids(4);
    let topology = Topology::of_scores(&all, scores);
    let chosen = prefer(&whole(4), &topology, SharedPolicy::Distributed, &all, &[], 2).expect("chosen");
    assert_eq!(chosen, [all[0].clone(), all[2].clone()]);
}

/// Two cards, four replicas each.
fn replicated() -> Resource {
    let sharing = config::Sharing {
        resources: vec![config::Replicated {
            name: "nvidia.com/gpu".into(),
            rename: None,
            devices: config::Replicate::All,
            replicas: 4,
        }],
        ..config::Sharing::default()
    };
    offer(&Config { sharing: Some(sharing), ..Config::default() }, &gpus(2)).expect("an offer").resources.remove(0)
}

#[test]
fn replicas_are_spread_or_packed() {
    let resource = replicated();
    let ids: Vec<String> = resource.devices.iter().map(|device| device.id.clone()).collect();
    let (a, b) = ids.split_at(4);
    let ask = |policy, free: &[&String], must: &[&String], size| {
        let own = |list: &[&String]| list.iter().map(|id| id.to_string()).collect::<Vec<_>>();
        prefer(&resource, &Topology::default(), policy, &own(free), &own(must), size).expect("chosen")
    };
    let free: Vec<&String> = ids.iter().collect();
    use SharedPolicy::{Distributed, Packed};
    // two of them are of two cards: n replicas are n distinct GPUs while there are as many
    assert_eq!(ask(Distributed, &free, &[], 2), [a[0].clone(), b[0].clone()]);
    assert_eq!(ask(Packed, &free, &[], 2), [a[0].clone(), a[1].clone()]);
    // one of the first card is gone
    assert_eq!(ask(Distributed, &free[1..], &[], 1), [b[0].clone()]);
    assert_eq!(ask(Packed, &free[1..], &[], 1), [a[1].clone()]);
    // three of the second are gone and one of the first
    let some: Vec<&String> = a[1..].iter().chain(&b[3..]).collect();
    assert_eq!(ask(Distributed, &some, &[], 2), [a[1].clone(), a[2].clone()]);
    assert_eq!(ask(Packed, &some, &[], 2), [a[1].clone(), b[3].clone()]);
    assert_eq!(ask(Distributed, &free, &[&b[2]], 2), [a[0].clone(), b[2].clone()]);
    assert_eq!(ask(Packed, &free, &[&b[2]], 2), [b[0].clone(), b[2].clone()]);
}

#[test]
fn instances_are_spread_over_the_cards() {
    let config = Config { mig: MigStrategy::Mixed, ..Config::default() };
    let node = found(vec![cut(0, &["1g.5gb"; 3]), cut(1, &["1g.5gb"; 3])]);
    let resource = offer(&config, &node).expect("an offer").resources.remove(0);
    let ids: Vec<String> = resource.devices.iter().map(|device| device.id.clone()).collect();
    let chosen = prefer(&resource, &Topology::new(&node), SharedPolicy::Distributed, &ids, &[], 2).expect("chosen");
    assert_eq!(chosen, [ids[0].clone(), ids[3].clone()]);
}

#[test]
fn what_cannot_be_is_refused() {
    let (resource, all) = (whole(2), uuids(2));
    let ask = |free: &[String], must: &[String], size| {
        prefer(&resource, &Topology::default(), SharedPolicy::Distributed, free, must, size)
    };
    let stranger = ["GPU-stranger".to_owned()];
    assert!(ask(&stranger, &[], 1).expect_err("unknown").says.contains("is no device of nvidia.com/gpu"));
    assert!(ask(&all[..1], &all[1..], 1).expect_err("not free").says.contains("is not free"));
    assert!(ask(&all, &[], 3).expect_err("too many").says.contains("3 of nvidia.com/gpu were asked, 2 are free"));
    assert!(ask(&all, &all, 1).is_err());
    assert_eq!(ask(&all, &[], 0), Ok(Vec::new()));
    // an id twice is one device
    let twice = [all[0].clone(), all[0].clone()];
    assert!(ask(&twice, &[], 2).is_err());
}
