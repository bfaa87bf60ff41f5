//! The real planners, the real journal, simulated machines: what a plan writes has the effect that it promises, at the
//! moment that it promises, and goes back.

mod common;

use std::collections::BTreeMap;

use common::{Laid, lay_out};
use journal::Journal;
use machine::{Machine, MachineExt};
use model::{Intent, Op, OutcomeState, Plan, Risk, Tell};
use sim::SimHands;
use sim::physics::{boot, plug_into, start_vm};

fn apply(laid: &Laid, plan: &Plan) -> u64 {
    assert_eq!(plan.refusals, [], "refused");
    assert!(!plan.changes.is_empty(), "nothing to do: {:?}", plan.notes);
    let hands = SimHands::new(laid.path());
    let mut journal = Journal::open(laid.path(), &hands).expect("the journal");
    journal.apply(plan, &mut |_| {}).unwrap_or_else(|error| panic!("{error}")).number
}

fn undo(laid: &Laid, number: u64) {
    let hands = SimHands::new(laid.path());
    let mut journal = Journal::open(laid.path(), &hands).expect("the journal");
    journal.undo(number).unwrap_or_else(|error| panic!("{error}"));
}

fn host_facts(laid: &Laid) -> host::Facts {
    let root = laid.again();
    host::observe(&root, &gpu::observe(&root))
}

fn states(facts: &host::Facts, intent: &Intent) -> Vec<(String, OutcomeState)> {
    host::verify(facts, intent).into_iter().map(|outcome| (outcome.says, outcome.state)).collect()
}

/// Everything that a person or a generator writes, by path.
fn files(laid: &Laid) -> BTreeMap<String, Vec<u8>> {
    let root = laid.again();
    let mut found = BTreeMap::new();
    let mut todo: Vec<String> = ["/etc", "/boot", "/lib", "/usr"].map(String::from).to_vec();
    while let Some(path) = todo.pop() {
        if root.link(&path).is_there() {
            continue;
        }
        if root.is_dir(&path) {
            todo.extend(root.names(&path).into_iter().map(|name| format!("{path}/{name}")));
        } else if let Some(bytes) = root.read(&path).is() {
            found.insert(path, bytes);
        }
    }
    found
}

#[test]
fn a_host_plan_holds_the_card_after_the_boot_and_not_before() {
    for (name, card, others) in [
        ("seed-host", "0000:26:00.0", vec![("0000:22:00.0", "r8169"), ("0000:28:00.3", "snd_hda_intel")]),
        ("debian-host", "0000:26:00.0", vec![("0000:22:00.0", "r8169")]),
        ("twin-cards", "0000:26:00.0", vec![("0000:2d:00.0", "nouveau"), ("0000:2d:00.1", "snd_hda_intel")]),
        ("pve-zfs-systemd-boot", "0000:01:00.0", vec![("0000:00:02.0", "i915"), ("0000:00:14.0", "xhci_hcd")]),
        ("ubuntu-grub-d", "0000:01:00.0", vec![("0000:00:02.0", "i915")]),
    ] {
        let laid = lay_out(name);
        let before = files(&laid);
        let give = card.parse().expect("an address");
        let intent = Intent { give: vec![give], allow: vec!["host/console-lost".into()], ..Intent::default() };
        let number = apply(&laid, &host::plan(&host_facts(&laid), &intent));
        let facts = host_facts(&laid);
        assert_eq!(host::plan(&facts, &intent).changes, [], "{name}: a second plan before the boot");
        let early = states(&facts, &intent);
        assert!(early.iter().any(|(_, state)| matches!(state, OutcomeState::Pending(_))), "{name}: {early:?}");
        assert!(!early.iter().any(|(_, state)| matches!(state, OutcomeState::Failed(_))), "{name}: {early:?}");
        boot(laid.path()).expect("boots");
        let facts = host_facts(&laid);
        for (says, state) in states(&facts, &intent) {
            assert_eq!(state, OutcomeState::Held, "{name}: {says}");
        }
        assert_eq!(host::plan(&facts, &intent).changes, [], "{name}: a second plan after the boot");
        for (bdf, driver) in &others {
            assert_eq!(laid.driver(bdf), *driver, "{name}: {bdf}");
        }
        undo(&laid, number);
        assert_eq!(files(&laid), before, "{name}: undo left differences");
        boot(laid.path()).expect("boots");
        assert_eq!(laid.driver(card), "nouveau", "{name}: after undo and a boot");
    }
}

#[test]
fn by_ids_holds_it_too() {
    let laid = lay_out("seed-host");
    let allow = vec!["host/console-lost".into()];
    let intent = Intent { give: vec!["0000:26:00.0".parse().expect("bdf")], allow, by_ids: true, ..Intent::default() };
    apply(&laid, &host::plan(&host_facts(&laid), &intent));
    boot(laid.path()).expect("boots");
    assert_eq!((laid.driver("0000:26:00.0"), laid.driver("0000:26:00.1")), ("vfio-pci".into(), "vfio-pci".into()));
    assert_eq!(laid.driver("0000:28:00.3"), "snd_hda_intel");
}

#[test]
fn the_whole_way_to_a_card_in_the_guest() {
    let (host, guest) = (lay_out("seed-host"), lay_out("seed-guest"));
    let give = vec!["0000:26:00.0".parse().expect("bdf")];
    let intent = Intent { give, vm: Some("100".into()), allow: vec!["host/console-lost".into()], ..Intent::default() };
    let root = host.again();
    let gpus = gpu::observe(&root);
    let plan = host::plan(&host::observe(&root, &gpus), &intent).join(vm::plan(&vm::observe(&root, &gpus), &intent));
    apply(&host, &plan);
    boot(host.path()).expect("boots");
    let started = start_vm(host.path(), 100).expect("starts");
    assert_eq!(started.screen, None);
    assert_eq!(started.functions.len(), 2);
    let root = host.again();
    for outcome in vm::verify(&vm::observe(&root, &gpu::observe(&root)), &intent) {
        assert_eq!(outcome.state, OutcomeState::Held, "{}", outcome.says);
    }
    plug_into(guest.path(), &started).expect("boots");

    let look = || {
        let root = guest.again();
        guest::observe(&root, &gpu::observe(&root))
    };
    let before = files(&guest);
    let number = apply(&guest, &guest::plan(&look(), &Intent::default()));
    assert_eq!(guest::plan(&look(), &Intent::default()).changes, [], "a second plan before the boot");
    let waits = guest::verify(&look(), &Intent::default());
    assert!(waits.iter().any(|outcome| matches!(outcome.state, OutcomeState::Pending(_))), "{waits:?}");
    assert!(!waits.iter().any(|outcome| matches!(outcome.state, OutcomeState::Failed(_))), "{waits:?}");
    boot(guest.path()).expect("boots");
    assert_eq!(guest.driver("0000:01:00.0"), "nvidia");
    for finding in model::run_all(guest::CHECKS, &look()) {
        let fails = matches!(finding.verdict, model::Verdict::Fail(_));
        assert!(!fails, "{}: {:?}", finding.about.id, finding.verdict);
    }
    for outcome in guest::verify(&look(), &Intent::default()) {
        assert_eq!(outcome.state, OutcomeState::Held, "{}", outcome.says);
    }
    assert_eq!(guest::plan(&look(), &Intent::default()).changes, [], "a second plan after the boot");
    undo(&guest, number);
    assert_eq!(files(&guest), before, "undo left differences");
    boot(guest.path()).expect("boots");
    assert_eq!(guest.driver("0000:01:00.0"), "nouveau", "after undo and a boot");
}

/// The power goes at every point of the installation, and the next run either finds it whole or takes it back.
#[test]
fn an_installation_that_is_cut_off_is_taken_back() {
    let mut cuts = 0;
    for point in 1.. {
        let guest = lay_out("seed-guest");
        let before = files(&guest);
        let root = guest.again();
        let plan = guest::plan(&guest::observe(&root, &gpu::observe(&root)), &Intent::default());
        let hands = SimHands::new(guest.path());
        let mut journal = Journal::open(guest.path(), &hands).expect("the journal").stop_at(point);
        let cut = match journal.apply(&plan, &mut |_| {}) {
            Err(journal::Error::Stopped(_)) => true,
            Ok(_) => false,
            Err(other) => panic!("{other}"),
        };
        drop(journal);
        if !cut {
            break;
        }
        cuts += 1;
        let mut journal = Journal::open(guest.path(), &hands).expect("the journal");
        let recovered = journal.recover().unwrap_or_else(|error| panic!("point {point}: {error}"));
        let whole = recovered.iter().any(|one| matches!(one, journal::Recovered::Completed(_)));
        if whole {
            journal.undo(1).unwrap_or_else(|error| panic!("point {point}: {error}"));
        }
        assert_eq!(files(&guest), before, "cut off at point {point}");
    }
    assert!(cuts > 15, "{cuts}");
}

/// What the plan mends on a machine whose driver runs: nvidia-uvm now and at boot, headers for kernels to come, the
/// daemon; and all of it goes back.
#[test]
fn a_running_driver_is_kept_running() {
    for (name, mends) in
        [("guest-no-nodes", vec!["guest/uvm-not-loaded"]), ("guest-neglected", vec!["guest/headers-follow"])]
    {
        let guest = lay_out(name);
        let look = || {
            let root = guest.again();
            guest::observe(&root, &gpu::observe(&root))
        };
        let verdict = |id: &str| {
            let found = model::run_all(guest::CHECKS, &look()).into_iter().find(|finding| finding.about.id.0 == id);
            found.expect("the check").verdict
        };
        let before = files(&guest);
        for id in &mends {
            assert!(!matches!(verdict(id), model::Verdict::Pass), "{name}: {id} is well before");
        }
        let number = apply(&guest, &guest::plan(&look(), &Intent::default()));
        for id in &mends {
            assert_eq!(verdict(id), model::Verdict::Pass, "{name}");
        }
        assert_eq!(guest::plan(&look(), &Intent::default()).changes, [], "{name}: a second plan");
        undo(&guest, number);
        assert_eq!(files(&guest), before, "{name}: undo left differences");
    }
}

#[test]
fn apt_s_refusals_leave_everything_as_it_was() {
    let guest = lay_out("seed-guest");
    let look = || {
        let root = guest.again();
        guest::observe(&root, &gpu::observe(&root))
    };
    let plan = guest::plan(&look(), &Intent::default());
    let hands = SimHands::new(guest.path());
    let refused = |plan: &Plan| {
        let before = files(&guest);
        let mut journal = Journal::open(guest.path(), &hands).expect("the journal");
        let error = journal.apply(plan, &mut |_| {}).expect_err("refused");
        assert_eq!(files(&guest), before, "a refusal left differences");
        let mut says = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            says = format!("{says}: {error}");
            source = error.source();
        }
        says
    };
    let mut unknown = plan.clone();
    for change in &mut unknown.changes {
        if let Op::Packages(op) = &mut change.op {
            op.install.push("nvidia-driver-999".into());
        }
    }
    assert!(refused(&unknown).contains("Unable to locate package nvidia-driver-999"), "{}", refused(&unknown));
    let write = |path: &str, text: &str| {
        let scratch = machine::scratch::Scratch::again(guest.path()).expect("the tree");
        scratch.write(path, text.as_bytes(), 0o644).expect("written");
    };
    let sources = guest.again().text("/etc/apt/sources.list").is().expect("apt's sources");
    write("/etc/apt/sources.list", &sources.replace(" restricted", ""));
    assert!(refused(&plan).contains("Unable to locate package"), "without restricted");
    write("/etc/apt/sources.list", &sources);
    // apt says well, and DKMS has built nothing: no headers.
    let mut bare = plan.clone();
    for change in &mut bare.changes {
        if let Op::Packages(op) = &mut change.op {
            op.install.retain(|name| !name.starts_with("linux-headers") && name != "build-essential");
        }
    }
    assert!(refused(&bare).contains("no module nvidia was built for 5.4.0-100-generic"), "{}", refused(&bare));
    let status = guest.again().text("/var/lib/dpkg/status").is().expect("dpkg's status");
    let held = "Package: nvidia-utils-470\nStatus: hold ok installed\nArchitecture: amd64\nVersion: 470.1\n\n";
    write("/var/lib/dpkg/status", &format!("{status}{held}"));
    assert!(refused(&plan).contains("held broken packages"), "a held package");
}

#[test]
fn a_guest_is_told_where_its_card_sits() {
    let (host, guest) = (lay_out("vm-hint"), lay_out("seed-guest"));
    let look = |laid: &Laid| {
        let root = laid.again();
        let gpus = gpu::observe(&root);
        (vm::observe(&root, &gpus), guest::observe(&root, &gpus), gpus)
    };
    let before = files(&host);
    let wish = |hint| Intent { vm: Some("100".into()), hint, ..Intent::default() };
    assert_eq!(vm::plan(&look(&host).0, &wish(None)).changes, [], "nothing is told unasked");
    // the box tells the places: with the host's name it is another text
    let named = wish(Some(Tell::Named));
    let plan = vm::plan(&look(&host).0, &named);
    assert!(
        plan.changes.iter().flat_map(|change| &change.risk).any(|risk| matches!(risk, Risk::Security(_))),
        "{plan:?}"
    );
    let number = apply(&host, &plan);
    assert_eq!(vm::plan(&look(&host).0, &named).changes, [], "a second plan");
    assert!(vm::verify(&look(&host).0, &named).iter().any(|outcome| matches!(outcome.state, OutcomeState::Pending(_))));
    let started = start_vm(host.path(), 100).expect("starts");
    assert_eq!(started.oem_strings.len(), 2, "another's own and ours: {:?}", started.oem_strings);
    for outcome in vm::verify(&look(&host).0, &named) {
        assert_eq!(outcome.state, OutcomeState::Held, "{}", outcome.says);
    }
    plug_into(guest.path(), &started).expect("boots");
    let (_, inside, gpus) = look(&guest);
    let card = gpus.nvidia().next().expect("the card");
    let place = gpus.place(card).expect("its place");
    assert_eq!(place.place(), "pve 0000:26:00.0, slot 4, NUMA 0, x4 8.0 GT/s");
    assert!(format!("{:?}", guest::presence(&inside)).contains("slot 4, NUMA 0"), "{:?}", guest::presence(&inside));
    // taken out again, the guest knows nothing after its next start
    sim::physics::stop_vm(host.path(), 100).expect("stops");
    undo(&host, number);
    assert_eq!(files(&host), before, "undo left differences");
    let number = apply(&host, &vm::plan(&look(&host).0, &wish(Some(Tell::Nothing))));
    let started = start_vm(host.path(), 100).expect("starts");
    assert_eq!(started.oem_strings, ["myapp:1"]);
    plug_into(guest.path(), &started).expect("boots");
    assert!(look(&guest).2.hints.is_absent());
    undo(&host, number);
    assert_eq!(files(&host), before, "undo left differences");
}

/// The session in which thruway runs may come in by a card's neighbour that does not carry the default route.
#[test]
#[allow(clippy::disallowed_methods, reason = "changes the simulated machine from outside")]
fn an_ssh_session_that_would_be_cut_is_named() {
    let laid = lay_out("host-group-shared");
    let write = |path: &str, text: &str| {
        let path = laid.path().join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("its directory");
        std::fs::write(path, text).expect("written");
    };
    let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
    write("proc/net/route", &format!("{head}vmbr0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"));
    let row = |port: &str| format!("head\n  1: 050200C0:{port} 090200C0:D2F0 01 00000000:00000000 02:00 0 0\n");
    let says = || {
        let findings = model::run_all(host::CHECKS, &host_facts(&laid));
        let lost = findings.into_iter().find(|finding| finding.about.id.0 == "host/network-lost").expect("the check");
        match lost.verdict {
            model::Verdict::Fail(trouble) | model::Verdict::Warn(trouble) => trouble.says,
            other => panic!("{other:?}"),
        }
    };
    write("proc/net/tcp", &row("01BB"));
    assert!(!says().contains("SSH"), "{}", says());
    write("proc/net/tcp", &row("0016"));
    assert!(says().starts_with("an SSH session comes in by enp34s0"), "{}", says());
    write("proc/net/tcp", &row("08AE"));
    write("etc/ssh/sshd_config", "# ours\nPort 2222\n");
    assert!(says().starts_with("an SSH session comes in by enp34s0"), "{}", says());
}
