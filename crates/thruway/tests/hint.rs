//! `--hint`: from a VM's plan on the host to what the guest's own thruway shows.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "runs the program on a tree and looks at it")]

mod common;

use common::{on, stderr, stdout, thruway};
use machine::scratch::Scratch;
use serde_json::Value;

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(&stdout(output))
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

fn built(name: &str) -> Scratch {
    let scratch = Scratch::temporary().expect("a directory");
    sim::build_named(name, &scratch).expect("the box");
    scratch
}

const PLACE: &str = "0000:26:00.0, slot 4, NUMA 0, x4 8.0 GT/s";

#[test]
fn a_guest_shows_its_cards_place() {
    let text = stdout(&thruway(&["--sim", "guest-hint", "gpus"]));
    assert!(text.contains(&format!("on host   {PLACE}")), "{text}");
    let report = json(&thruway(&["--sim", "guest-hint", "gpus", "--json"]));
    let cards = report["cards"].as_array().expect("cards");
    let card =
        cards.iter().find(|card| card["identity"]["id"] == "10de:1d01").expect("the card beside the emulated VGA");
    assert_eq!((&card["on_host"]["pci"], &card["on_host"]["slot"]), (&"0000:26:00.0".into(), &"4".into()));
    assert_eq!(card["on_host"]["numa"], 0);
    let doctor = stdout(&thruway(&["--sim", "guest-hint", "doctor", "--layer", "guest"]));
    assert!(doctor.split_whitespace().collect::<Vec<_>>().join(" ").contains(PLACE), "{doctor}");
    // one that fits no card is named, and is no card's place
    let text = stdout(&thruway(&["--sim", "guest-hint-stale", "gpus"]));
    assert!(!text.contains("on host ") && text.contains("a card that is not here: [10de:1cb3"), "{text}");
    // a host shows the slot itself
    assert!(stdout(&thruway(&["--sim", "vm-hint", "gpus"])).contains("slot      4"));
}

#[test]
fn a_capture_of_the_guest_says_the_same() {
    let scratch = built("guest-hint");
    let file = scratch.path().join("box.tar.zst");
    let out = file.to_str().expect("a path");
    assert_eq!(on(scratch.path(), &["capture", "-o", out]).status.code(), Some(0));
    assert!(stdout(&thruway(&["--from", out, "gpus"])).contains(PLACE));
}

#[test]
fn nothing_is_told_unasked_and_the_plan_says_what_is() {
    let plain = stdout(&thruway(&["--sim", "vm-good", "vm", "plan"]));
    assert!(plain.contains("Nothing to change."), "{plain}");
    let told = stdout(&thruway(&["--sim", "vm-good", "vm", "plan", "--hint"]));
    for word in
        ["tell the guest of VM 100", "risk", "security", "+args: -smbios type=11,value=thruway.dev/gpu:1;id=10de:1d01"]
    {
        assert!(told.contains(word), "no {word} in\n{told}");
    }
    assert!(!told.contains("host=pve"), "{told}");
    let named = stdout(&thruway(&["--sim", "vm-good", "vm", "plan", "--hint=host"]));
    assert!(named.contains("host=pve"), "{named}");
    let same = stdout(&thruway(&["--sim", "vm-hint", "vm", "plan", "--hint"]));
    assert!(same.contains("Nothing to change."), "{same}");
    let none = stdout(&thruway(&["--sim", "vm-hint", "vm", "plan", "--hint=none"]));
    assert!(none.contains("+args: -smbios type=11,value=myapp:1\n"), "{none}");
    let domain = stdout(&thruway(&["--sim", "vm-libvirt", "vm", "plan", "--hint"]));
    for word in
        ["+    <smbios mode='sysinfo'/>", "+  <sysinfo type='smbios'>", "+      <entry>thruway.dev/gpu:1;id=10de:1d01"]
    {
        assert!(domain.contains(word), "no {word} in\n{domain}");
    }
    let unknown = thruway(&["--sim", "vm-good", "vm", "plan", "--hint=all"]);
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn the_nodes_labels_carry_it() {
    let scratch = built("kube-hint-unlabelled");
    let root = scratch.path();
    let plan = stdout(&on(root, &["kube", "plan"]));
    for word in
        ["label node mufti-4 with its cards' places", "+thruway.dev/gpu-0.host-slot: \"4\"", "cluster/host-topology"]
    {
        assert!(plan.contains(word), "no {word} in\n{plan}");
    }
    let applied = on(root, &["kube", "apply", "--yes"]);
    assert_eq!(applied.status.code(), Some(0), "{}{}", stdout(&applied), stderr(&applied));
    assert!(stdout(&on(root, &["kube", "plan"])).contains("Nothing to change."));
    let doctor = json(&on(root, &["doctor", "--json", "--layer", "cluster"]));
    let found = |id: &str| {
        let all =
            doctor["floors"].as_array().expect("floors").iter().flat_map(|floor| floor["findings"].as_array().cloned());
        all.flatten().find(|finding| finding["id"] == id).expect("the check")["verdict"].clone()
    };
    assert_eq!(found("cluster/host-topology"), "pass");
    assert_eq!(on(root, &["undo", "--yes"]).status.code(), Some(0));
    assert!(stdout(&on(root, &["kube", "plan"])).contains("+thruway.dev/gpu-0.host-slot"));
}

#[test]
fn twins_are_told_apart_by_the_guests_port() {
    let both = ["vm", "plan", "--give", "26:00.0", "--give", "2d:00.0", "--to", "vm:100", "--hint"];
    let plan = stdout(&thruway(&[["--sim", "twin-cards"].as_slice(), &both].concat()));
    for place in ["port=0000:00:1c.0;pci=0000:26:00.0", "port=0000:00:1c.1;pci=0000:2d:00.0"] {
        assert!(plan.contains(place), "no {place} in\n{plan}");
    }
    let one = ["vm", "plan", "--give", "26:00.0", "--to", "vm:100", "--hint"];
    let plan = stdout(&thruway(&[["--sim", "twin-cards"].as_slice(), &one].concat()));
    assert!(plan.contains("pci=0000:26:00.0") && !plan.contains("port="), "{plan}");
}

#[test]
fn a_guest_with_its_hosts_own_tables_is_told_nothing_else() {
    let scratch = built("vm-libvirt");
    let file = scratch.path().join("etc/libvirt/qemu/media.xml");
    let text = std::fs::read_to_string(&file).expect("the domain");
    std::fs::write(&file, text.replace("<boot dev='hd'/>", "<smbios mode='host'/>")).expect("written");
    let refused = on(scratch.path(), &["vm", "plan", "--hint"]);
    assert_eq!(refused.status.code(), Some(1));
    let text = stdout(&refused);
    assert!(
        text.contains("Refused") && text.contains("smbios mode='host'") && text.contains("vm/hint-stale"),
        "{text}"
    );
    // on libvirt too it goes back to the same bytes, and a second plan is empty
    let scratch = built("vm-libvirt");
    let file = scratch.path().join("etc/libvirt/qemu/media.xml");
    let before = std::fs::read(&file).expect("the domain");
    let applied = on(scratch.path(), &["vm", "apply", "--hint", "--yes"]);
    assert_eq!(applied.status.code(), Some(0), "{}{}", stdout(&applied), stderr(&applied));
    assert_ne!(std::fs::read(&file).expect("the domain"), before);
    assert!(stdout(&on(scratch.path(), &["vm", "plan", "--hint"])).contains("Nothing to change."));
    let none = on(scratch.path(), &["vm", "apply", "--hint=none", "--yes"]);
    assert_eq!(none.status.code(), Some(0), "{}{}", stdout(&none), stderr(&none));
    assert_eq!(std::fs::read(&file).expect("the domain"), before, "--hint=none is the way back as well");
}

#[test]
fn a_plan_grows_old_with_the_slot_and_not_with_the_links_sleep() {
    let scratch = built("vm-hint");
    let root = scratch.path();
    let plan = root.join("plan.json");
    let out = plan.to_str().expect("a path");
    assert_eq!(on(root, &["vm", "plan", "--hint=host", "--out", out]).status.code(), Some(0));
    let link = root.join("sys/bus/pci/devices/0000:26:00.0/current_link_speed");
    assert!(std::fs::read_to_string(&link).expect("the link").starts_with("2.5"));
    std::fs::write(&link, "8.0 GT/s PCIe\n").expect("awake");
    assert_eq!(on(root, &["apply", out, "--dry-run"]).status.code(), Some(0), "the link woke up");
    std::fs::rename(root.join("sys/bus/pci/slots/4"), root.join("sys/bus/pci/slots/2")).expect("another slot");
    let old = on(root, &["apply", out, "--yes"]);
    assert_eq!(old.status.code(), Some(2), "{}", stdout(&old));
    assert!(stderr(&old).contains("slot 4") && stderr(&old).contains("slot 2"), "{}", stderr(&old));
}

#[test]
fn a_guest_that_lost_its_card_is_told_nothing_any_more() {
    let scratch = built("vm-hint");
    let root = scratch.path();
    let conf = root.join("etc/pve/nodes/pve/qemu-server/100.conf");
    let text = std::fs::read_to_string(&conf).expect("VM 100");
    std::fs::write(&conf, text.replace("hostpci0: 0000:26:00,pcie=1\n", "").replace("machine: q35\n", ""))
        .expect("written");
    let check = stdout(&on(root, &["vm", "check", "100"]));
    for word in ["is told of a card that it has not", "vm plan --to vm:100 --hint=none"] {
        assert!(check.contains(word), "no {word} in\n{check}");
    }
    let plan = json(&on(root, &["vm", "plan", "--to", "vm:100", "--hint=none", "--json"]));
    let changes = plan["changes"].as_array().expect("changes");
    assert_eq!(changes.len(), 1, "{plan:#}");
    assert_eq!(changes[0]["title"], "VM 100: args", "no card is given by the way, and nothing else is mended");
}

#[test]
fn a_tree_without_sysfs_says_nothing_of_a_hint() {
    let scratch = built("vm-hint");
    std::fs::remove_dir_all(scratch.path().join("sys")).expect("a tree of files alone");
    let doctor = json(&on(scratch.path(), &["doctor", "--json", "--layer", "vm"]));
    let all =
        doctor["floors"].as_array().expect("floors").iter().flat_map(|floor| floor["findings"].as_array().cloned());
    let found = all.flatten().find(|finding| finding["id"] == "vm/hint-stale").expect("the check");
    assert_eq!(found["verdict"], "not_applicable", "{found:#}");
}
