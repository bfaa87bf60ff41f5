//! Faults of the driver and of the node: away within a second, back afterwards.

use std::time::{Duration, Instant};

use simkube::kubelet::Ask;

use crate::world::{GPU, LONG, QUICK, World, run};

/// The bar.
const SECOND: Duration = Duration::from_secs(1);

/// The fault is there; so many devices must be healthy, and how long it took.
pub async fn falls(world: &World, what: &str, healthy: usize) {
    let begun = Instant::now();
    let fell = world.kubelet.until(GPU, LONG, |it| it.counts().1 == healthy).await;
    let took = begun.elapsed();
    assert!(fell, "{what}: {:?} healthy\n{}", world.kubelet.resource(GPU).unwrap().counts(), world.said());
    println!("{what}: {healthy} of 8 healthy after {took:?}");
    assert!(took < SECOND, "{what}: {took:?}");
}

pub async fn recovers(world: &World, what: &str) {
    world.control("");
    let begun = Instant::now();
    assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (8, 8)).await, "{what}: {}", world.said());
    println!("{what}: all healthy again after {:?}", begun.elapsed());
}

#[test]
fn a_driver_with_faults() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        // its watch is open and registered for events
        tokio::time::sleep(Duration::from_millis(600)).await;

        world.control("[[gpus]]\nindex = 3\nxids = [79]\nlost = true\n");
        falls(&world, "Xid 79 and fallen off the bus", 7).await;
        assert!(world.get("/metrics").await.contains("xid=\"79\"}} 1".replace("}}", "}").as_str()));
        recovers(&world, "the card is back").await;

        tokio::time::sleep(Duration::from_millis(600)).await;
        world.control("[[gpus]]\nindex = 5\nxids = [48]\n");
        falls(&world, "Xid 48, an uncorrectable ECC error", 7).await;
    });
}

#[test]
fn a_driver_that_hangs_or_is_lost() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        tokio::time::sleep(Duration::from_millis(600)).await;
        // of a program, and not of the card
        world.control("[[gpus]]\nindex = 5\nxids = [13]\n");
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(world.kubelet.resource(GPU).unwrap().counts(), (8, 8), "{}", world.said());

        world.control("hang = { milliseconds = 1200, calls = [\"nvmlDeviceGetTemperature\"] }\n");
        falls(&world, "calls hang", 0).await;
        recovers(&world, "calls answer again").await;

        world.control("fail = { nvmlDeviceGetTemperature = 999, nvmlDeviceGetHandleByIndex_v2 = 999 }\n");
        falls(&world, "NVML lost", 0).await;
        recovers(&world, "NVML answers again").await;
    });
}

#[test]
fn grants_go_on_while_nvml_hangs_and_no_unhealthy_one_is_given() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        tokio::time::sleep(Duration::from_millis(600)).await;
        world.control("[[gpus]]\nindex = 0\nlost = true\n");
        falls(&world, "one lost", 7).await;
        world.control("hang = { milliseconds = 1500, calls = [\"nvmlDeviceGetUtilizationRates\"] }\n[[gpus]]\nindex = 0\nlost = true\n");
        let begun = Instant::now();
        let grant = world.kubelet.admit(&Ask::new("pod", GPU, 7)).await.unwrap();
        assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
        assert!(!grant.devices.iter().any(|id| id.ends_with("000000000000")), "{:?}", grant.devices);
    });
}

/// Nothing can be written: the agent offers and answers all the same, and says so.
#[test]
fn a_full_disk_stops_no_grant() {
    run(async {
        let Some(mut world) = World::new("h100x8", QUICK, &[]).await else { return };
        let home = world.at("/var/lib/thruway/node");
        std::fs::create_dir_all(&home).unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4k", "full"])
            .arg(&home)
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("SKIP: no tmpfs can be mounted here");
            return;
        }
        std::fs::write(home.join("filler"), vec![0; 4096]).unwrap();
        world.start();
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (8, 8)).await, "{}", world.said());
        let granted = world.kubelet.admit(&Ask::new("pod", GPU, 1)).await;
        let said = world.get("/readyz").await;
        drop(world.agent.as_mut().map(|agent| (agent.kill(), agent.wait())));
        let _ = std::process::Command::new("umount").arg(&home).status();
        assert!(granted.is_ok(), "{granted:?}");
        assert!(said.contains("inventory.json could not be written"), "{said}");
    });
}
