//! Another plugin for the same resource.

use std::time::{Duration, Instant};

use simkube::plugin::Plugin;

use crate::world::{GPU, LONG, QUICK, World, run};

async fn other(world: &World, socket: &str) -> Plugin {
    let plugin = Plugin::start(world.kubelet.dir(), socket, &["GPU-other"]).await.unwrap();
    plugin.register(kubelet::VERSION, GPU).await.unwrap();
    plugin
}

async fn until_ready_says(world: &World, words: &str) {
    let until = Instant::now() + LONG;
    while !world.get("/readyz").await.contains(words) {
        assert!(Instant::now() < until, "{words}: {}\n{}", world.get("/readyz").await, world.said());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// By its socket's name, and by the kubelet's word where the name says nothing.
#[test]
fn whoever_comes_second_does_not_begin() {
    run(async {
        for (socket, words) in [("nvidia-gpu.sock", "nvidia-gpu.sock"), ("acme.sock", "already has healthy devices")] {
            let Some(mut world) = World::new("t4", QUICK, &[]).await else { return };
            let first = other(&world, socket).await;
            assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (1, 1)).await);
            world.start();
            until_ready_says(&world, words).await;
            tokio::time::sleep(Duration::from_millis(700)).await;
            let resource = world.kubelet.resource(GPU).unwrap();
            assert_eq!((resource.endpoint.as_str(), resource.counts()), (socket, (1, 1)), "{}", world.said());
            // the other one goes: ours begins by itself
            drop(first);
            std::fs::remove_file(world.kubelet.dir().join(socket)).unwrap();
            let ours = |it: &simkube::kubelet::Resource| it.endpoint == "thruway-gpu.sock" && it.connected;
            assert!(world.kubelet.until(GPU, LONG, ours).await, "{}", world.said());
        }
    });
}

#[test]
fn one_that_takes_our_place_is_named_and_not_fought() {
    run(async {
        let Some(world) = World::ready("t4", QUICK).await else { return };
        let _second = other(&world, "nvidia-gpu.sock").await;
        until_ready_says(&world, "another device plugin").await;
        let taken = world.kubelet.resource(GPU).unwrap().registered;
        tokio::time::sleep(Duration::from_millis(2800)).await;
        let resource = world.kubelet.resource(GPU).unwrap();
        assert_eq!((resource.endpoint.as_str(), resource.registered), ("nvidia-gpu.sock", taken), "{}", world.said());
    });
}
