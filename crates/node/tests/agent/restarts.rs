//! The kubelet restarts at random moments, with pods that come and go meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use simkube::kubelet::{Ask, Kubelet};

use crate::world::{Dice, GPU, LONG, QUICK, World, percentile, run};

/// The bar: registered again so soon after the kubelet's socket appeared.
const BAR: Duration = Duration::from_millis(10);

async fn restarts(times: usize, of_all: usize) {
    crate::world::ahead_of_others();
    let Some(mut world) = World::ready("h100x8", QUICK).await else { return };
    let kubelet =
        Arc::new(std::mem::replace(&mut world.kubelet, Kubelet::start(crate::world::folder().path()).await.unwrap()));
    let mut dice = Dice(0x5eed_0000_cafe_0008);
    let mut took = Vec::new();
    let (mut granted, mut refused, mut pod) = (0, BTreeMap::<String, usize>::new(), 0);
    for _ in 0..times {
        // pods come and go, some of them while the kubelet ends
        let mut asks = Vec::new();
        for _ in 0..dice.below(3) {
            pod += 1;
            let (kubelet, ask) =
                (Arc::clone(&kubelet), Ask::new(&format!("pod-{pod}"), GPU, 1 + dice.below(3) as usize));
            let after = Duration::from_micros(dice.below(12_000));
            asks.push(tokio::spawn(async move {
                tokio::time::sleep(after).await;
                kubelet.admit(&ask).await.map(drop)
            }));
        }
        for grant in kubelet.grants() {
            if dice.below(2) == 0 {
                kubelet.forget(&grant.pod);
            }
        }
        tokio::time::sleep(Duration::from_micros(dice.below(30_000))).await;
        let held = kubelet.grants();
        kubelet.restart(Duration::from_micros(dice.below(8000))).await.unwrap();
        let kept = kubelet.grants();
        assert!(kubelet.until_listed(GPU, LONG).await, "not registered again: {}", world.said());
        let resource = kubelet.resource(GPU).unwrap();
        took.push(resource.registered.unwrap() - kubelet.appeared().unwrap());
        assert_eq!(resource.counts(), (8, 8), "{}", world.said());
        for ask in asks {
            match ask.await.unwrap() {
                Ok(()) => granted += 1,
                Err(why) => *refused.entry(why.0).or_default() += 1,
            }
        }
        // what was granted before the end, its answer too, is so after it: the kubelet admits those pods again
        for before in held.iter().filter(|grant| !grant.answer.cdi_devices.is_empty()) {
            let again = kept.iter().find(|grant| grant.pod == before.pod);
            let Some(again) = again else { panic!("the grant of {} is lost", before.pod) };
            let mut devices = (before.devices.clone(), again.devices.clone());
            devices.0.sort();
            devices.1.sort();
            assert_eq!((devices.0, &before.answer), (devices.1, &again.answer));
            let ask = Ask { count: before.devices.len(), ..Ask::new(&before.pod, GPU, 0) };
            let admitted = kubelet.admit(&ask).await.unwrap_or_else(|why| panic!("{}: {why}", before.pod));
            assert_eq!(admitted.answer, before.answer);
        }
        assert_eq!(kubelet.given_twice(), Vec::<String>::new());
    }
    took.sort();
    let (p50, p99, most) = (percentile(&took, 50), percentile(&took, 99), took[took.len() - 1]);
    println!(
        "{times} restarts: registered after p50 {p50:?}, p99 {p99:?}, most {most:?}; {granted} pods granted, refused: {refused:?}"
    );
    assert!(granted > times / 4, "too few pods came through to say anything: {granted}");
    let bar = percentile(&took, of_all);
    assert!(bar <= BAR, "p{of_all} {bar:?}");
}

#[test]
fn sixty_restarts_lose_nothing() {
    // with sixty, one that another program held up would be the hundredth part
    run(restarts(60, 90));
}

#[test]
#[ignore = "the long form: a minute"]
fn a_thousand_restarts_lose_nothing() {
    run(restarts(1000, 99));
}
