//! NVML read by us against the driver's own `nvidia-smi`, on a machine that has a card.
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the oracle is another program on this machine"
)]

use std::process::Command;

use machine::nvml::NvmlReport;
use machine::{Answer, Machine as _, Question, Root};
use model::Seen;

/// `nvidia-smi -q -x` as field notes, which gives the same form.
fn theirs() -> Result<NvmlReport, String> {
    let output =
        Command::new("nvidia-smi").args(["-q", "-x"]).output().map_err(|error| format!("nvidia-smi: {error}"))?;
    if !output.status.success() {
        return Err(format!("nvidia-smi: {}", String::from_utf8_lossy(&output.stdout).trim()));
    }
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    std::fs::write(dir.path().join("q.xml"), &output.stdout).map_err(|error| error.to_string())?;
    let notes = machine::capture::open(dir.path()).map_err(|error| error.to_string())?;
    match notes.ask(&Question::Nvml) {
        Seen::Is(Answer::Nvml(report)) => Ok(*report),
        other => Err(format!("no report: {other:?}")),
    }
}

#[test]
fn nvidia_smi_says_the_same() {
    let theirs = match theirs() {
        Ok(report) => report,
        Err(why) => {
            eprintln!("SKIP: no card to compare with: {why}");
            return;
        }
    };
    let root = Root::live().expect("the root directory");
    let Seen::Is(Answer::Nvml(ours)) = root.ask(&Question::Nvml) else {
        panic!("nvidia-smi works and our NVML does not: {:?}", root.ask(&Question::Nvml))
    };
    println!("{}", serde_json::to_string_pretty(&ours).expect("is JSON"));
    assert_eq!((&ours.driver_version, &ours.cuda_version), (&theirs.driver_version, &theirs.cuda_version));
    assert!(ours.nvml_version.is_there());
    assert_eq!(ours.gpus.len(), theirs.gpus.len());
    for (a, b) in ours.gpus.iter().zip(&theirs.gpus) {
        assert_eq!(
            (&a.bus_id, &a.pci_device_id, &a.pci_subsystem_id),
            (&b.bus_id, &b.pci_device_id, &b.pci_subsystem_id)
        );
        assert_eq!((&a.name, &a.uuid, &a.serial, &a.minor), (&b.name, &b.uuid, &b.serial, &b.minor));
        assert_eq!((&a.vbios, &a.architecture, &a.brand), (&b.vbios, &b.architecture, &b.brand));
        assert_eq!((&a.virtualization, &a.compute_mode), (&b.virtualization, &b.compute_mode));
        assert_eq!(
            (&a.persistence, &a.display_active, &a.mig_enabled),
            (&b.persistence, &b.display_active, &b.mig_enabled)
        );
        assert_eq!((&a.ecc_enabled, &a.ecc_uncorrected_volatile), (&b.ecc_enabled, &b.ecc_uncorrected_volatile));
        assert_eq!((&a.pcie_gen_max, &a.pcie_width_max), (&b.pcie_gen_max, &b.pcie_width_max));
        assert_eq!((&a.fan, &a.power_limit), (&b.fan, &b.power_limit));
        // nvidia-smi rounds to MiB.
        let mib = |seen: &Seen<u64>| seen.as_ref().map(|bytes| bytes >> 20);
        assert_eq!((mib(&a.memory_total), mib(&a.bar1_total)), (mib(&b.memory_total), mib(&b.bar1_total)));
        assert!(a.compute_capability.is_there() && a.temperature.is_there());
    }
    let inventory = gpu::observe(&root);
    let shown: Vec<_> = inventory.nvidia().filter_map(|card| card.nvml.as_ref()).map(|gpu| gpu.index).collect();
    assert_eq!(shown.len(), ours.gpus.len(), "every GPU of NVML is a card of ours");
    println!("{}", serde_json::to_string_pretty(&inventory.driver).expect("is JSON"));
    for card in inventory.nvidia() {
        println!("{} {} {:?} {:?} {:?}", card.identity.bdf, card.device_name, card.arch, card.group, card.holder);
    }
}
