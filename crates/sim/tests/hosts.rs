//! Every simulated host: its plan is the same twice, is empty once applied, has its effect after the boot and not
//! before, and goes back to the same bytes, modes, owners and times.

mod common;

use std::collections::BTreeMap;

use common::{Laid, lay_out};
use host::Loader;
use journal::Journal;
use machine::{Machine, MachineExt};
use model::{Intent, Op, OutcomeState, Plan, Tool};
use sim::physics::boot;
use sim::{Box, SimHands};

fn facts(laid: &Laid) -> host::Facts {
    let root = laid.again();
    host::observe(&root, &gpu::observe(&root))
}

/// What the host's own definitions ask for, every loss named.
fn intent() -> Intent {
    let allow = ["console-lost", "network-lost", "disk-lost", "group-shared", "rmrr-ineligible", "override-blocks"];
    Intent { allow: allow.map(|id| format!("host/{id}")).into(), ..Intent::default() }
}

/// Content, mode, owner and, of what no generator makes, time; by path. Links by their target.
fn files(laid: &Laid) -> BTreeMap<String, (Vec<u8>, String)> {
    let root = laid.again();
    let mut found = BTreeMap::new();
    let mut todo: Vec<String> =
        ["/etc", "/boot", "/efi", "/lib", "/usr", "/.thruway-sim/esp"].map(String::from).to_vec();
    while let Some(path) = todo.pop() {
        if let Some(target) = root.link(&path).is() {
            found.insert(path, (target.into_bytes(), "link".into()));
        } else if root.is_dir(&path) {
            todo.extend(root.names(&path).into_iter().map(|name| format!("{path}/{name}")));
            found.insert(path, (Vec::new(), "directory".into()));
        } else if let Some(bytes) = root.read(&path).is() {
            let stat = root.stat(&path).is().expect("a file that was read");
            // Programs that keep the arguments themselves write their files anew.
            let generated =
                ["/boot/", "/efi/", "/etc/kernelstub/", "/.thruway-sim/"].iter().any(|d| path.starts_with(d));
            let kept = !generated && !matches!(path.as_str(), "/etc/default/grub" | "/etc/kernel/cmdline");
            let time = if kept { stat.mtime } else { 0 };
            found.insert(path, (bytes, format!("{:o} {}:{} {time}", stat.mode, stat.uid, stat.gid)));
        }
    }
    found
}

fn apply(laid: &Laid, plan: &Plan) -> u64 {
    let hands = SimHands::new(laid.path());
    let mut journal = Journal::open(laid.path(), &hands).expect("the journal");
    journal
        .apply(plan, &mut |_| {})
        .unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
        .number
}

fn undo(laid: &Laid, number: u64) {
    let hands = SimHands::new(laid.path());
    let mut journal = Journal::open(laid.path(), &hands).expect("the journal");
    journal.undo(number).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_plan_is_the_same_twice_and_goes_back_to_the_same_files() {
    let mut planned = Vec::new();
    for name in Box::names() {
        let laid = lay_out(name);
        for clean in [false, true] {
            let intent = Intent { clean, ..intent() };
            let plan = host::plan(&facts(&laid), &intent);
            assert_eq!(plan, host::plan(&facts(&laid), &intent), "{name}: two plans of one machine");
            if plan.changes.is_empty() || !plan.refusals.is_empty() {
                continue;
            }
            if !clean {
                planned.push(name);
            }
            let before = files(&laid);
            let number = apply(&laid, &plan);
            assert_eq!(host::plan(&facts(&laid), &intent).changes, [], "{name}: a second plan before the boot");
            undo(&laid, number);
            let after = files(&laid);
            let differ = |path: &&String| before.get(*path) != after.get(*path);
            let differing: Vec<&String> = before.keys().chain(after.keys()).filter(differ).collect();
            assert_eq!(differing, Vec::<&String>::new(), "{name}: undo left differences");
        }
    }
    for name in HOSTS.map(|(name, _, _)| name) {
        assert!(planned.contains(&name), "{name} has no plan: {planned:?}");
    }
}

/// Hosts of every kind that thruway writes for: the loader it must find, and the program that runs last.
const HOSTS: [(&str, Loader, &str); 12] = [
    ("debian-13", Loader::Grub, "update-grub"),
    ("debian-systemd-boot", Loader::SystemdBoot, "kernel-install add-all"),
    ("fedora-bls", Loader::GrubEntries, "grubby --update-kernel=ALL --args=intel_iommu=on"),
    ("arch-uki", Loader::UnifiedImage, "mkinitcpio -P"),
    ("arch-entries", Loader::Entries, "mkinitcpio -P"),
    ("opensuse-leap", Loader::Grub, "update-bootloader --refresh"),
    ("pop-kernelstub", Loader::Kernelstub, "kernelstub --add-options intel_iommu=on"),
    ("silverblue", Loader::Ostree, "rpm-ostree kargs --append-if-missing=intel_iommu=on"),
    ("pve-9-secure-boot", Loader::ProxmoxGrub, "update-grub"),
    ("pve-zfs-systemd-boot", Loader::ProxmoxSystemdBoot, "update-initramfs -u -k all"),
    ("laptop-shared-group", Loader::Grub, "update-initramfs -u -k all"),
    ("hgx-nvswitch", Loader::Grub, "update-initramfs -u -k all"),
];

#[test]
fn every_host_holds_its_card_after_the_boot_and_not_before() {
    for (name, loader, last) in HOSTS {
        let laid = lay_out(name);
        let first = facts(&laid);
        assert_eq!(first.boot.loader, loader, "{name}");
        let cards: Vec<String> = first.targets().iter().map(|t| t.card.identity.bdf.to_string()).collect();
        assert!(!cards.is_empty(), "{name}: no card is wanted");
        let drivers: Vec<(String, String)> =
            first.inventory.functions.iter().map(|f| (f.bdf.to_string(), laid.driver(&f.bdf.to_string()))).collect();
        let plan = host::plan(&first, &intent());
        let words = match plan.changes.last().map(|change| &change.op) {
            Some(Op::Regenerate(tool)) => tool.argv().join(" "),
            Some(Op::KernelArgs { by, add, remove }) => by.paste(add, remove).join("; "),
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!(words, last, "{name}");
        let number = apply(&laid, &plan);
        for outcome in host::verify(&facts(&laid), &intent()) {
            assert!(!matches!(outcome.state, OutcomeState::Failed(_)), "{name}: {outcome:?}");
        }
        let booted = boot(laid.path()).expect("boots");
        assert_eq!(booted.messages, Vec::<String>::new(), "{name}");
        let now = facts(&laid);
        for outcome in host::verify(&now, &intent()) {
            assert_eq!(outcome.state, OutcomeState::Held, "{name}: {} (booted with {})", outcome.says, booted.cmdline);
        }
        assert_eq!(host::plan(&now, &intent()).changes, [], "{name}: a second plan after the boot");
        // No other function changed hands.
        let ours = |bdf: &str| cards.iter().any(|card| card.split('.').next() == bdf.split('.').next());
        for (bdf, driver) in drivers.iter().filter(|(bdf, driver)| !ours(bdf) && !driver.is_empty()) {
            assert_eq!(laid.driver(bdf), *driver, "{name}: {bdf}");
        }
        undo(&laid, number);
        boot(laid.path()).expect("boots");
        for (bdf, driver) in drivers.iter().filter(|(_, driver)| !driver.is_empty()) {
            assert_eq!(laid.driver(bdf), *driver, "{name}: {bdf} after undo and a boot");
        }
    }
}

/// Two cards of one kind: with dracut and mkinitcpio the one that is given is held though the other one's driver is
/// loaded first, by a list of modules or by udev.
#[test]
fn a_twin_keeps_its_driver_whichever_tool_makes_the_initramfs() {
    for name in ["fedora-bls", "arch-uki", "arch-grub-booster"] {
        let mut this = Box::load(name).expect("the box");
        let give: Vec<sim::Pci> =
            this.pci.iter().filter(|f| f.bdf.to_string().starts_with("0000:01:00")).cloned().collect();
        for mut twin in give {
            // The kept card comes first by address, so udev meets it first.
            let bdf = twin.bdf.to_string().replace("0000:01:00", "0000:00:05");
            (twin.bdf, twin.behind) = (bdf.parse().expect("an address"), None);
            this.pci.push(twin);
        }
        this.pci.sort_by_key(|function| function.bdf);
        let laid = common::lay(&this);
        let intent = intent();
        let plan = host::plan(&facts(&laid), &intent);
        assert_eq!(plan.refusals, [], "{name}");
        apply(&laid, &plan);
        boot(laid.path()).expect("boots");
        assert_eq!(laid.driver("0000:01:00.0"), "vfio-pci", "{name}");
        assert_eq!(laid.driver("0000:01:00.1"), "vfio-pci", "{name}");
        assert_eq!(laid.driver("0000:00:05.0"), "nouveau", "{name}");
        assert_eq!(laid.driver("0000:00:05.1"), "snd_hda_intel", "{name}");
    }
}

/// Where files would not last nothing is written, and the refusal is the advice.
#[test]
fn appliances_get_the_lines_to_paste() {
    for (name, pastes) in [
        (
            "nixos",
            vec!["boot.kernelParams = [ \"intel_iommu=on\" ];", "boot.initrd.services.udev.rules", "0000:01:00.1"],
        ),
        ("unraid", vec!["BIND=0000:01:00.0|10de:2504 0000:01:00.1|10de:228e"]),
        (
            "bootc-image",
            vec!["/usr/lib/bootc/kargs.d/10-thruway.toml", "kargs = [\"intel_iommu=on\"]", "hold 0000:01:00.0"],
        ),
    ] {
        let laid = lay_out(name);
        let plan = host::plan(&facts(&laid), &intent());
        let advice: Vec<&str> = plan.refusals.iter().map(|refusal| refusal.instead.as_str()).collect();
        let advice = advice.join("\n");
        for paste in pastes {
            assert!(advice.contains(paste), "{name} does not say {paste}: {advice}");
        }
        let writes = plan.changes.iter().filter(|change| matches!(change.op, Op::WriteFile { .. }));
        assert_eq!(writes.count(), 0, "{name}");
    }
    assert_eq!(Tool::OstreeInitramfs.back().last(), Some(&"--disable"));
}

/// The leftovers of old guides go, each where it stands; what the host needs stays, and undo brings all of it back.
#[test]
fn clean_takes_away_what_old_guides_left() {
    let laid = lay_out("host-old-guides");
    let intent = Intent { clean: true, ..intent() };
    let plan = host::plan(&facts(&laid), &intent);
    assert_eq!(plan.refusals, []);
    let removed = |path: &str| plan.changes.iter().any(|c| matches!(&c.op, Op::RemoveFile { path: p } if p == path));
    assert!(removed("/etc/modprobe.d/iommu_unsafe_interrupts.conf"), "{:?}", plan.changes);
    let before = files(&laid);
    let number = apply(&laid, &plan);
    boot(laid.path()).expect("boots");
    let now = facts(&laid);
    let line = now.boot.effective.get().cloned().unwrap_or_default();
    assert!(!line.contains("amd_iommu=on") && !line.contains("efifb") && line.contains("pcie_acs_override"), "{line}");
    assert_eq!(host::cruft::find(&now), []);
    let outcomes = host::verify(&now, &intent);
    let clean = outcomes.iter().find(|outcome| outcome.says == "nothing of old guides is left");
    assert_eq!(clean.map(|outcome| &outcome.state), Some(&OutcomeState::Held), "{outcomes:?}");
    undo(&laid, number);
    assert_eq!(files(&laid), before);
}
