//! The sampler on the simulated library: what it says is what a whole look says, and it lets go where it must.

mod common;

use common::Live;
use gpu::attribution::OwnedBy;
use machine::nvml::{self, Depth};
use machine::{Machine, Memory};
use model::{Reason, Seen};
use watch::Sampler;

/// A report without what is not asked each second.
fn json(gpu: &nvml::NvmlGpu) -> serde_json::Value {
    let mut gpu = gpu.clone();
    gpu.processes = Seen::Absent;
    if let Seen::Is(pcie) = &mut gpu.pcie {
        (pcie.sent, pcie.received) = (Seen::Absent, Seen::Absent);
    }
    serde_json::to_value(gpu).expect("JSON")
}

#[test]
fn a_later_sample_says_what_a_whole_look_says() {
    for name in ["gt1030", "gt1030-470", "h100x8", "a100-mig"] {
        let live = Live::new(name);
        let mut sampler = Sampler::open(&live.machine);
        let first = sampler.sample(&live.machine);
        assert!(first.driver.is_there() && first.simulated, "{name}: {first:?}");
        live.control(
            "[[gpus]]\nindex = 0\nset = { temperature = { now = 71 }, processes = [{ pid = 77, kind = 'C', memory_mib = 949, sm = 36, \
             mem = 3, enc = 0, dec = 21 }] }\n",
        );
        live.process(77, "/usr/lib/jellyfin-ffmpeg/ffmpeg", "0::/system.slice/jellyfin.service\n");
        let later = sampler.sample(&live.machine);
        let Seen::Is(whole) = nvml::ask(&live.machine, Depth::All) else { panic!("{name}: no report") };
        assert_eq!(later.cards.len(), whole.gpus.len());
        for (card, gpu) in later.cards.iter().zip(&whole.gpus) {
            assert_eq!(json(&card.gpu), json(gpu), "{name}");
            assert!(card.gpu.pcie.get().is_some_and(|pcie| pcie.sent.unreadable().is_some()), "20 ms are not spent");
        }
        let card = &later.cards[0];
        assert_eq!(card.gpu.temperature, Seen::Is(71));
        let Seen::Is(processes) = &card.processes else { panic!("{name}: {:?}", card.processes) };
        let found = &processes[0];
        assert_eq!((found.process.pid, &found.process.memory), (77, &Seen::Is(949 << 20)));
        assert_eq!(found.whose.owner, OwnedBy::Unit { unit: "jellyfin.service".into(), user: None });
        assert_eq!((&found.whose.command, &found.whose.user), (&Seen::Is("ffmpeg".into()), &Seen::Is(1000)));
        if name != "a100-mig" {
            assert_eq!((&found.process.sm, &found.process.decoder), (&Seen::Is(36), &Seen::Is(21)));
        }
    }
}

#[test]
fn a_card_that_is_lost_keeps_its_address_and_a_card_with_xids_counts_them() {
    let live = Live::new("h100x8");
    let mut sampler = Sampler::open(&live.machine);
    let before = sampler.sample(&live.machine);
    live.control("[[gpus]]\nindex = 3\nlost = true\nxids = [79]\n[[gpus]]\nindex = 1\nxids = [13, 13, 31]\n");
    std::thread::sleep(std::time::Duration::from_millis(600));
    let sample = sampler.sample(&live.machine);
    assert_eq!(sample.cards.len(), 8);
    assert!(sample.cards[3].gpu.name.unreadable().is_some_and(|why| why.to_string().contains("off the bus")));
    assert!(sample.cards[4].gpu.name.is_there());
    assert_eq!((sample.cards[3].bdf, sample.cards[2].bdf), (before.cards[3].bdf, before.cards[2].bdf));
    let sample = sampler.sample(&live.machine);
    assert_eq!(sample.cards[1].xids, [(13, 2), (31, 1)].into());
}

#[test]
fn nvml_is_let_go_of_while_a_card_is_on_its_way_to_a_vm() {
    const BDF: &str = "0000:01:00.0";
    let live = Live::new("gt1030");
    let at = format!("sys/bus/pci/devices/{BDF}");
    live.write(
        &format!("{at}/uevent"),
        "DRIVER=nvidia\nPCI_CLASS=30000\nPCI_ID=10DE:1D01\nPCI_SUBSYS_ID=1458:37B8\nPCI_SLOT_NAME=0000:01:00.0\n",
    );
    live.link(&format!("{at}/driver"), "../../../bus/pci/drivers/nvidia");
    let mut sampler = Sampler::open(&live.machine);
    assert_eq!(sampler.sample(&live.machine).cards.len(), 1);
    let ledger = format!("var/lib/thruway/ledger/{BDF}.json");
    let promise = |to: &str| {
        format!(
            r#"{{"form":1,"gpu":{{"bdf":"{BDF}","id":"10de:1d01","subsystem":"1458:37b8","uuid":null}},"name":"GeForce GT 1030","to":"{to}"}}"#
        )
    };
    live.write(&ledger, &promise("containers"));
    assert_eq!(sampler.sample(&live.machine).cards.len(), 1, "they use it by this very driver");
    live.write(&ledger, &promise("vm:100"));
    let sample = sampler.sample(&live.machine);
    assert!(sample.cards.is_empty());
    assert!(sample.driver.unreadable().is_some_and(|why| why.to_string().contains("promised to vm:100")), "{sample:?}");
    live.remove(&ledger);
    assert_eq!(sampler.sample(&live.machine).cards.len(), 1, "and it is open again");
}

#[test]
fn without_a_driver_the_samples_say_so() {
    let live = Live::new("gt1030");
    live.remove("dev/nvidiactl");
    let sample = Sampler::open(&live.machine).sample(&live.machine);
    assert_eq!((sample.driver, sample.cards.len()), (Seen::Absent, 0));
    live.write("dev/nvidiactl", "");
    live.control("kernel = '580.95.05'");
    let sample = Sampler::open(&live.machine).sample(&live.machine);
    assert!(matches!(&sample.driver, Seen::Unreadable(Reason::Other(why)) if why.contains("different versions")));
}

#[test]
fn in_another_pid_namespace_nobody_is_named() {
    let mut machine = Memory::new("a container");
    let mut blind = |pid: &str, namespace: &str| {
        machine.insert_link(&format!("/proc/{pid}/ns/pid"), namespace);
        Sampler::open(&machine).sample(&machine as &dyn Machine).blind
    };
    assert!(!blind("self", "pid:[4026531836]"));
    assert!(blind("self", "pid:[4026532201]"));
    // the host's /proc, seen from a container: its process 1 is of the first namespace
    assert!(!blind("1", "pid:[4026531836]"));
    assert!(blind("1", "pid:[4026532201]"));
}
