//! Starts, ends, slow and dead kubelets, directories that are exchanged.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use simkube::kubelet::{Ask, Kubelet, Manners};

use crate::world::{GPU, LONG, QUICK, World, run};

#[test]
fn an_upgrade_takes_over_and_no_pod_notices() {
    run(async {
        let Some(mut world) = World::ready("h100x8", QUICK).await else { return };
        let grant = world.kubelet.admit(&Ask::new("pod", GPU, 2)).await.unwrap();
        assert!(world.end(Signal::TERM).await.success());
        assert!(world.at("/var/lib/kubelet/device-plugins/thruway-gpu.sock").exists(), "the socket stays");
        assert!(world.kubelet.until(GPU, LONG, |it| !it.connected).await);
        assert_eq!(world.kubelet.resource(GPU).unwrap().counts().1, 0, "nobody answers for them now");
        let begun = world.start();
        assert!(world.kubelet.until(GPU, LONG, |it| it.connected && it.counts() == (8, 8)).await, "{}", world.said());
        println!(
            "from its start to registered: {:?}",
            world.kubelet.resource(GPU).unwrap().registered.unwrap() - begun
        );
        assert_eq!(world.kubelet.grants(), std::slice::from_ref(&grant));
        assert_eq!(world.kubelet.admit(&Ask::new("pod", GPU, 2)).await.unwrap(), grant);
    });
}

#[test]
fn a_second_agent_waits_until_the_first_has_ended() {
    run(async {
        let Some(mut world) = World::ready("t4", QUICK).await else { return };
        let mut first = world.agent.take().unwrap();
        world.start();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(world.said().contains("another thruway-node runs"), "{}", world.said());
        let before = world.kubelet.resource(GPU).unwrap().registered;
        rustix::process::kill_process(rustix::process::Pid::from_child(&first), Signal::TERM).unwrap();
        assert!(world.kubelet.until(GPU, LONG, |it| it.connected && it.registered > before).await, "{}", world.said());
        first.wait().unwrap();
    });
}

#[test]
fn a_kubelet_that_is_slow_dead_or_refuses_is_asked_again() {
    run(async {
        let Some(mut world) = World::new("t4", QUICK, &[]).await else { return };
        world.kubelet.set_manners(Manners::Speaks("v1".into()));
        world.start();
        let until = Instant::now() + LONG;
        while world.kubelet.refused().is_empty() {
            assert!(Instant::now() < until, "{}", world.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(world.kubelet.refused()[0].contains("requested API version \"v1beta1\" is not supported"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(world.get("/readyz").await.contains("is not supported by kubelet"), "{}", world.get("/readyz").await);
        world.kubelet.set_manners(Manners::Slow(Duration::from_millis(400)));
        world.well().await;
        // never answers; its restart does
        world.kubelet.set_manners(Manners::Dead);
        world.kubelet.restart(Duration::ZERO).await.unwrap();
        assert!(!world.kubelet.until_listed(GPU, Duration::from_millis(300)).await);
        world.kubelet.set_manners(Manners::Good);
        world.kubelet.restart(Duration::ZERO).await.unwrap();
        world.well().await;
    });
}

#[test]
fn a_directory_that_is_exchanged_is_found_again() {
    run(async {
        let Some(mut world) = World::ready("t4", QUICK).await else { return };
        let dir = world.at("/var/lib/kubelet/device-plugins");
        world.kubelet.stop();
        std::fs::rename(&dir, dir.with_extension("old")).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.kubelet = Kubelet::start(&world.laid.root).await.unwrap();
        world.well().await;
        let took = world.kubelet.resource(GPU).unwrap().registered.unwrap() - world.kubelet.appeared().unwrap();
        println!("a new directory: registered after {took:?}");
        // deleted and made again
        world.kubelet.stop();
        std::fs::remove_dir_all(&dir).unwrap();
        world.kubelet = Kubelet::start(&world.laid.root).await.unwrap();
        world.well().await;
        // our own socket alone
        std::fs::remove_file(dir.join("thruway-gpu.sock")).unwrap();
        let until = Instant::now() + LONG;
        while !dir.join("thruway-gpu.sock").exists() {
            assert!(Instant::now() < until, "its own socket is not made again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.well().await;
    });
}

#[test]
fn a_new_configuration_is_taken_on_a_signal_and_a_wrong_one_is_not() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        let shared =
            format!("{QUICK}sharing: {{timeSlicing: {{resources: [{{name: nvidia.com/gpu, replicas: 4}}]}}}}\n");
        std::fs::write(world.config(), shared).unwrap();
        world.signal(Signal::HUP);
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (32, 32)).await, "{}", world.said());
        std::fs::write(world.config(), "version: v1\nsharing: {timeSlicing: nonsense}\n").unwrap();
        world.signal(Signal::HUP);
        let until = Instant::now() + LONG;
        while !world.get("/readyz").await.contains("the configuration before stays in force") {
            assert!(Instant::now() < until, "{}", world.said());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(world.kubelet.resource(GPU).unwrap().counts(), (32, 32));
    });
}

/// The driver's modules are not loaded yet: the agent waits, or ends where NVIDIA's own key asks for it.
#[test]
fn without_a_driver_it_waits_for_one_or_ends_as_the_file_says() {
    run(async {
        let Some(mut world) = World::new("t4", QUICK, &[]).await else { return };
        let parts = ["/sys/module/nvidia", "/proc/driver/nvidia", "/dev/nvidiactl"].map(|path| world.at(path));
        let away = |path: &std::path::Path| path.with_extension("away");
        parts.iter().for_each(|path| std::fs::rename(path, away(path)).unwrap());
        world.start();
        let until = Instant::now() + LONG;
        while !world.get("/readyz").await.contains("no NVIDIA driver runs on this node") {
            assert!(Instant::now() < until, "{}\n{}", world.get("/readyz").await, world.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        parts.iter().rev().for_each(|path| std::fs::rename(away(path), path).unwrap());
        world.well().await;
        assert!(world.end(Signal::TERM).await.success());

        parts.iter().for_each(|path| std::fs::rename(path, away(path)).unwrap());
        std::fs::write(world.config(), format!("{QUICK}flags: {{failOnInitError: true}}\n")).unwrap();
        world.start();
        let status = world.ended().await;
        let said = world.said();
        assert!(!status.success() && said.contains("failOnInitError is set"), "{status}: {said}");
    });
}
