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

/// Security and leftovers, on a host that followed old guides and on one that did not.
#[test]
fn an_audit_names_what_weakens_a_host_and_what_guides_left() {
    let guided = thruway(&["--sim", "host-old-guides", "host", "audit"]);
    insta::assert_snapshot!("host-audit", stdout(&guided));
    assert_eq!(guided.status.code(), Some(1));
    assert_eq!(thruway(&["--sim", "host-good", "host", "audit"]).status.code(), Some(0));
    let json = stdout(&thruway(&["--sim", "host-worn-out", "host", "audit", "--json"]));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let found = |part: &str| {
        let rows = json[part].as_array().expect("rows");
        rows.iter().filter(|row| row["verdict"] == "warn" || row["verdict"] == "fail").count()
    };
    assert!(found("security") > 0, "{json:#}");
}
