//! The plan of each kind of host, as its owner reads it.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program")]

mod common;

use common::{stdout, thruway};

/// One snapshot a machine: `cargo insta review` after a change, and read each as its owner would.
#[test]
fn the_plan_of_each_host_as_its_owner_reads_it() {
    for name in [
        "seed-host",
        "debian-13",
        "debian-systemd-boot",
        "fedora-bls",
        "arch-uki",
        "arch-entries",
        "arch-grub-booster",
        "opensuse-leap",
        "pop-kernelstub",
        "silverblue",
        "bootc-image",
        "nixos",
        "unraid",
        "pve-9-secure-boot",
        "pve-zfs-systemd-boot",
        "twin-cards",
        "laptop-shared-group",
        "hgx-nvswitch",
        "guest-cloud-t4",
        "guest-mig",
    ] {
        let text = stdout(&thruway(&["--sim", name, "host", "plan"]));
        insta::assert_snapshot!(format!("host-plan-{name}"), text);
    }
    let text = stdout(&thruway(&["--sim", "host-old-guides", "host", "plan", "--clean"]));
    insta::assert_snapshot!("host-plan-clean", text);
}
