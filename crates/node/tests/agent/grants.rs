//! What a container gets, and what is refused.

use std::time::{Duration, Instant};

use simkube::kubelet::Ask;

use crate::world::{GPU, LONG, QUICK, World, run};

#[test]
fn a_grant_names_devices_that_resolve_and_never_all() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        let grant = world.kubelet.admit(&Ask::new("pod", GPU, 2)).await.unwrap();
        let names: Vec<String> = grant.answer.cdi_devices.iter().map(|device| device.name.clone()).collect();
        let wanted: Vec<String> = grant.devices.iter().map(|id| format!("nvidia.com/gpu={id}")).collect();
        assert_eq!(
            {
                let mut names = names.clone();
                names.sort();
                names
            },
            {
                let mut it = wanted;
                it.sort();
                it
            }
        );
        let spec = std::fs::read_to_string(world.at("/var/run/cdi/nvidia.com-gpu.json")).unwrap();
        for id in &grant.devices {
            assert!(spec.contains(&format!("\"{id}\"")), "{id} stands in no spec");
        }
        // no spec any more: a container would not start, so the pod is refused with the reason until the agent has written it anew
        let path = world.at("/var/run/cdi/nvidia.com-gpu.json");
        for number in 0..20 {
            std::fs::remove_file(&path).unwrap();
            let until = Instant::now() + LONG;
            let granted = loop {
                match world.kubelet.admit(&Ask::new(&format!("other-{number}"), GPU, 1)).await {
                    Ok(grant) => break grant,
                    Err(why) => assert!(why.0.contains("no CDI spec has a device"), "{why}"),
                }
                assert!(Instant::now() < until, "the spec is not written again: {}", world.said());
            };
            let spec = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(spec.contains(&format!("\"{}\"", granted.devices[0])), "granted without a spec: {spec}");
            world.kubelet.forget(&format!("other-{number}"));
        }
    });
}

#[test]
fn a_card_that_left_its_driver_is_not_given() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        let resource = world.kubelet.resource(GPU).unwrap();
        let all = resource.healthy().len();
        // handed to vfio-pci: the next look takes it out; until then a grant is refused
        let card = world.at("/sys/bus/pci/devices/0000:1b:00.0");
        std::fs::create_dir_all(world.at("/sys/bus/pci/drivers/vfio-pci")).unwrap();
        std::fs::remove_file(card.join("driver")).unwrap();
        std::os::unix::fs::symlink("../../../../bus/pci/drivers/vfio-pci", card.join("driver")).unwrap();
        let refused = world.kubelet.admit(&Ask::new("pod", GPU, 8)).await.unwrap_err();
        assert!(refused.0.contains("vfio-pci") || refused.0.contains("Available: 7"), "{refused}");
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts().1 == all - 1).await, "{}", world.said());
        world.kubelet.admit(&Ask::new("pod", GPU, 7)).await.unwrap();
    });
}

/// What is known of a card from an earlier grant is held against the driver's entry: another card in the slot has another.
#[test]
fn another_card_at_the_address_is_not_given_after_many_grants_of_the_first() {
    run(async {
        let Some(world) = World::ready("t4", QUICK).await else { return };
        for number in 0..20 {
            let pod = format!("pod-{number}");
            world.kubelet.admit(&Ask::new(&pod, GPU, 1)).await.unwrap();
            world.kubelet.forget(&pod);
        }
        let dir = world.at("/proc/driver/nvidia/gpus");
        let entry = std::fs::read_dir(&dir).unwrap().next().unwrap().unwrap().path().join("information");
        let text = std::fs::read_to_string(&entry).unwrap();
        let (from, _) = text.split_once("GPU-").map(|(_, rest)| rest.split_at(8)).unwrap();
        std::fs::write(&entry, text.replace(from, "0ddca4d0")).unwrap();
        let refused = world.kubelet.admit(&Ask::new("late", GPU, 1)).await.unwrap_err();
        assert!(refused.0.contains("another card (GPU-0ddca4d0"), "{refused}");
    });
}

#[test]
fn a_cordoned_card_is_given_to_nobody_new() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        let id = world.kubelet.resource(GPU).unwrap().healthy().into_iter().next().unwrap();
        std::fs::write(world.at("/var/lib/thruway/node/cordon"), format!("# fan rattles\n{id}\n0000:43:00.0\n"))
            .unwrap();
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (8, 6)).await, "{}", world.said());
        std::fs::write(world.at("/var/lib/thruway/node/cordon"), "").unwrap();
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (8, 8)).await, "{}", world.said());
        tokio::time::sleep(Duration::from_millis(10)).await;
    });
}

#[test]
fn a_card_that_the_ledger_promises_to_a_vm_is_offered_no_more() {
    run(async {
        let Some(world) = World::ready("h100x8", QUICK).await else { return };
        let dir = world.at(journal::ledger::DIR);
        std::fs::create_dir_all(&dir).unwrap();
        let identity = gpu::observe(&machine::Root::tree(&world.laid.root).unwrap());
        let card = identity.cards.iter().find(|card| card.identity.bdf.to_string() == "0000:1b:00.0").unwrap();
        let promise = journal::ledger::Promise {
            form: journal::ledger::FORM,
            gpu: card.identity.clone(),
            name: "simulated".into(),
            to: "vm:100".parse().unwrap(),
        };
        std::fs::write(dir.join("0000:1b:00.0.json"), promise.text()).unwrap();
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (7, 7)).await, "{}", world.said());
        std::fs::remove_file(dir.join("0000:1b:00.0.json")).unwrap();
        assert!(world.kubelet.until(GPU, LONG, |it| it.counts() == (8, 8)).await, "{}", world.said());
    });
}
