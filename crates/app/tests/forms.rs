//! What runs Jellyfin is given the card by edits that touch nothing else.

use app::forms::{Form, compose, lxc, paste};
use machine::Memory;
use model::{Before, Intent, JellyfinWish, Op, OutcomeState, Plan};

const COMPOSE: &str = "# my media\nservices:\n  proxy:\n    image: caddy:2   # not ours\n\n  jellyfin:\n    image: lscr.io/linuxserver/jellyfin:10.10\n    \
    environment:\n      - TZ=Europe/Berlin  # here\n      - NVIDIA_DRIVER_CAPABILITIES=utility\n    volumes:\n      - /srv/jf:/config\n\n\
    # the end\nvolumes:\n  x: {}\n";

#[test]
fn a_compose_file_gets_the_card_and_keeps_its_comments() {
    let edited = compose::edit(COMPOSE).expect("edited");
    let wanted = COMPOSE.replace("CAPABILITIES=utility", "CAPABILITIES=compute,video,utility").replace(
        "      - /srv/jf:/config\n",
        "      - /srv/jf:/config\n    deploy:\n      resources:\n        reservations:\n          devices:\n            - driver: nvidia\n              \
         count: all\n              capabilities: [gpu]\n",
    );
    assert_eq!(edited.text, wanted, "{}", edited.text);
    assert_eq!(edited.words.len(), 2);
    assert_eq!(compose::edit(&edited.text).expect("again").words, Vec::<String>::new());
}

#[test]
fn compose_files_of_other_forms_are_met_too() {
    let grants =
        |text: &str| compose::edit(text).map(|edited| edited.words.len()).map_err(|problem| problem.to_string());
    let head = "services:\n  jf:\n    image: jellyfin/jellyfin\n";
    assert_eq!(grants(head), Ok(1), "its own image sets the libraries");
    for given in [
        "    gpus: all\n",
        "    runtime: nvidia\n",
        "    devices:\n      - nvidia.com/gpu=all\n",
        "    devices: [/dev/nvidia0]\n",
    ] {
        assert_eq!(grants(&format!("{head}{given}")), Ok(0), "{given}");
    }
    let other = "services:\r\n  jf:\r\n    image: me/jellyfin\r\n    environment:\r\n      A: b\r\n    deploy:\r\n      resources:\r\n        limits:\r\n          cpus: '2'\r\n";
    let edited = compose::edit(other).expect("edited");
    assert_eq!(edited.text.matches('\n').count(), edited.text.matches("\r\n").count(), "{}", edited.text);
    assert!(
        edited.text.contains("      A: b\r\n      NVIDIA_DRIVER_CAPABILITIES: compute,video,utility\r\n"),
        "{}",
        edited.text
    );
    assert!(
        edited.text.contains("          cpus: '2'\r\n        reservations:\r\n          devices:\r\n"),
        "{}",
        edited.text
    );
    let devices = "services:\n  jf:\n    image: jellyfin/jellyfin\n    deploy:\n      resources:\n        reservations:\n          devices:\n          - driver: tpu\n            count: 1\n";
    let edited = compose::edit(devices).expect("edited");
    assert!(edited.text.ends_with("            count: 1\n          - driver: nvidia\n            count: all\n            capabilities: [gpu]\n"), "{}", edited.text);
}

#[test]
fn what_is_not_edited_surely_says_where() {
    let problem = |text: &str| compose::edit(text).expect_err("not edited").to_string();
    assert!(problem("services:\n  a:\n    image: caddy\n").contains("none of its services"));
    assert!(problem("services:\n  a: {image: jellyfin/jellyfin}\n").starts_with("line 2"));
    assert!(problem("services:\n  a:\n    image: jellyfin\n  b:\n    image: jellyfin\n").contains("a, b"));
    assert!(problem("a: [").contains("line"));
    assert!(problem("x: &e {A: b}\nservices:\n  a:\n    image: me/jellyfin\n    environment: *e\n").contains("alias"));
}

const CONF: &str = "arch: amd64\nhostname: media\n# mine\nunprivileged: 1\n\n[before]\nhostname: old\n";

fn host() -> Memory {
    let mut machine = Memory::new("test");
    machine.insert_file(
        "/proc/devices",
        b"Character devices:\n  1 mem\n195 nvidia\n509 nvidia-uvm\n\nBlock devices:\n  8 sd\n",
    );
    for name in ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "null"] {
        machine.insert_file(&format!("/dev/{name}"), b"");
    }
    machine.insert_file("/proc/driver/nvidia/gpus/0000:02:00.0/information", b"Model: \t\t A\nDevice Minor: \t 1\n");
    machine.insert_file("/etc/pve/lxc/101.conf", CONF.as_bytes());
    machine.insert_file("/srv/media/compose.yaml", COMPOSE.as_bytes());
    machine
}

#[test]
fn a_container_of_proxmox_gets_the_nodes_in_its_own_section() {
    let devices = lxc::devices(&host(), Some("0000:02:00.0".parse().expect("an address")));
    let paths: Vec<&str> = devices.iter().map(|device| device.path.as_str()).collect();
    assert_eq!(
        paths,
        ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia1", "/dev/nvidiactl"],
        "that card's alone"
    );
    let edited = lxc::edit(CONF, &devices);
    let (own, snapshot) = edited.text.split_once("\n\n[before]").expect("its blank line stays");
    assert!(own.starts_with("arch: amd64\nhostname: media\n# mine\nunprivileged: 1\nlxc.cgroup2.devices.allow: c 195:* rwm\nlxc.cgroup2.devices.allow: c 509:* rwm\n"), "{own}");
    assert!(own.ends_with("lxc.mount.entry: /dev/nvidiactl dev/nvidiactl none bind,optional,create=file"), "{own}");
    assert_eq!(snapshot, "\nhostname: old\n");
    assert!(lxc::edit(&edited.text, &devices).words.is_empty());
    let by_dev = "dev0: /dev/nvidia1,gid=44\ndev1: path=/dev/nvidiactl\nlxc.cgroup2.devices.allow: a\n";
    assert_eq!(lxc::edit(by_dev, &devices).words.len(), 2, "the two of uvm are missing");
}

#[test]
fn named_files_are_planned_and_verified() {
    let mut machine = host();
    let wish =
        JellyfinWish { compose: Some("/srv/media/compose.yaml".into()), ct: Some(101), ..JellyfinWish::default() };
    let intent = Intent { jellyfin: Some(wish.clone()), ..Intent::default() };
    let facts = |machine: &Memory| {
        let mut facts = app::observe(machine, &gpu::observe(machine));
        facts.named = app::forms::read(machine, &wish);
        facts
    };
    let plan: Plan = app::plan(&facts(&machine), &intent);
    assert_eq!(plan.changes.len(), 2, "{plan:#?}");
    assert!(plan.notes.iter().any(|note| note.contains("pct reboot 101")), "{:?}", plan.notes);
    for change in &plan.changes {
        let (Op::WriteFile { path, content, .. }, Before::File(_)) = (&change.op, &change.expects) else {
            panic!("{change:?}")
        };
        machine.insert_file(path, &content.to_bytes().expect("bytes"));
    }
    assert!(app::plan(&facts(&machine), &intent).is_empty(), "a second plan is empty");
    let outcomes = app::forms::verify(&machine, &intent);
    assert!(outcomes.len() == 2 && outcomes.iter().all(|outcome| outcome.state == OutcomeState::Held), "{outcomes:?}");
    let was = app::forms::verify(&host(), &intent);
    assert!(was.iter().all(|outcome| matches!(outcome.state, OutcomeState::Failed(_))), "{was:?}");
}

#[test]
fn texts_to_paste_are_what_the_checks_ask_for() {
    let devices = lxc::devices(&host(), None);
    for form in [Form::Docker, Form::Compose, Form::Kubernetes, Form::Helm] {
        assert!(paste(form, None, &devices).contains("compute,video,utility"), "{form:?}");
    }
    let text =
        paste(Form::Compose, Some("GPU-1"), &devices).replace("  jellyfin:\n", "  jellyfin:\n    image: me/jellyfin\n");
    assert!(compose::edit(&text).expect("reads").words.is_empty(), "{text}");
    assert!(lxc::edit(&paste(Form::Lxc, None, &devices), &devices).words.is_empty());
}
