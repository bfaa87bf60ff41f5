//! Generators that fail, services that fail, steps that cannot be taken back.

use journal::{Error, Journal, State};
use model::{ServiceVerb, Tool, Undo};

use crate::world::*;

#[test]
fn a_generator_that_fails_twice_leaves_what_booted_before() {
    let dir = tree();
    let before = snapshot(dir.path());
    let mut hands = Boot::new(dir.path());
    hands.breaks_from = Some(0);
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let error = journal.apply(&plan(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Step { step: 5, .. }), "{error}");
    bootable(dir.path()).unwrap();
    assert_eq!(snapshot(dir.path()), before);
    assert_eq!(journal.log()[0].state, State::Undone);
}

#[test]
fn a_generator_that_breaks_at_undo_leaves_what_boots_now() {
    let dir = tree();
    let mut hands = Boot::new(dir.path());
    hands.breaks_from = Some(2);
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.apply(&plan(), &mut |_| {}).unwrap();
    let applied = std::fs::read(dir.path().join(GRUB_CFG)).unwrap();
    let error = journal.undo(1).unwrap_err();
    assert!(error.to_string().contains("update-initramfs"), "{error}");
    bootable(dir.path()).unwrap();
    assert_eq!(std::fs::read(dir.path().join(GRUB_CFG)).unwrap(), applied, "what boots now, not what booted then");
    assert_eq!(journal.log()[0].state, State::HalfUndone, "the generator is still owed");
    drop(journal);
    hands.breaks_from = None;
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    journal.recover().unwrap();
    assert_eq!(journal.log()[0].state, State::Undone);
    let grub = std::fs::read_to_string(dir.path().join(GRUB_CFG)).unwrap();
    assert_eq!(grub, format!("{GRUB}{WHOLE}"));
}

#[test]
fn a_service_that_could_not_be_started_is_not_stopped() {
    for (verb, again) in [
        (ServiceVerb::Start, false),
        (ServiceVerb::Stop, false),
        (ServiceVerb::Enable, false),
        (ServiceVerb::Disable, false),
        // Over the restored files: what the failed restart left down comes up again.
        (ServiceVerb::Restart, true),
    ] {
        let dir = tree();
        let before = snapshot(dir.path());
        let mut hands = Boot::new(dir.path());
        hands.no_service = true;
        let mut journal = Journal::open(dir.path(), &hands).unwrap();
        let plan = plan_of(vec![write("/etc/default/grub", WANTED, file(GRUB)), service(verb)]);
        let error = journal.apply(&plan, &mut |_| {}).unwrap_err();
        assert!(matches!(error, Error::Step { step: 2, .. }), "{verb:?}: {error}");
        let back = hands.said().iter().any(|said| said.starts_with("back Service"));
        assert_eq!(back, again, "{verb:?}: {:?}", hands.said());
        assert_eq!(snapshot(dir.path()), before);
    }
}

#[test]
fn what_cannot_be_taken_back_is_named_and_left() {
    let dir = tree();
    let mut hands = Boot::new(dir.path());
    hands.breaks_from = Some(0);
    let mut journal = Journal::open(dir.path(), &hands).unwrap();
    let mut gone = service(ServiceVerb::Stop);
    gone.title = "stop the display".into();
    gone.undo = Undo::Irreversible;
    let plan = plan_of(vec![gone, write("/etc/default/grub", WANTED, file(GRUB)), regenerate(Tool::UpdateGrub)]);
    let error = journal.apply(&plan, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("stop the display"), "{error}");
    assert!(!error.to_string().contains("everything before it was taken back"), "{error}");
    assert!(!hands.said().iter().any(|said| said.starts_with("back Service")), "{:?}", hands.said());
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/default/grub")).unwrap(), GRUB);
}
