use super::*;

const A: &str = "GPU-a";
const B: &str = "GPU-b";

/// Two cards; 10 s hold, 60 s after what wants a reset, 3 looks a second apart.
fn tracker() -> Tracker {
    with(Rules { hold_reset: 60_000, ..Rules::default() })
}

fn with(rules: Rules) -> Tracker {
    let mut tracker = Tracker::new(rules);
    tracker.know(&[A.into(), B.into()]);
    tracker
}

fn xid(tracker: &mut Tracker, number: u64, now: Millis) -> Vec<Told> {
    tracker.hear(&Event::Xid { gpu: Some(A.into()), number }, now)
}

fn look(tracker: &mut Tracker, well: Result<Recovery, &str>, now: Millis) -> Vec<Told> {
    tracker.hear(&Event::Probe { gpu: A.into(), well: well.map_err(str::to_owned) }, now)
}

fn healthy(tracker: &Tracker) -> (bool, bool) {
    (tracker.healthy(A, A), tracker.healthy(B, B))
}

/// Looks when one is due until the card is back; when that was.
fn back(tracker: &mut Tracker, well: Result<Recovery, &str>, from: Millis) -> Option<Millis> {
    let mut now = from;
    for _ in 0..2_000 {
        now = now.max(tracker.next()?);
        assert_eq!(tracker.due(now), [A]);
        if look(tracker, well, now).iter().any(|told| told.changed && told.healthy) {
            return Some(now);
        }
    }
    None
}

const SURE: Result<Recovery, &str> = Ok(Recovery::NotNeeded);
const ANSWERS: Result<Recovery, &str> = Ok(Recovery::Untold);

#[test]
fn a_fault_takes_its_card_alone_and_at_once() {
    let mut tracker = tracker();
    let told = xid(&mut tracker, 79, 5_000);
    assert_eq!(told.len(), 1);
    assert!(told[0].changed && !told[0].healthy && told[0].grade == Grade::Reset && told[0].xid == Some(79));
    assert!(told[0].says.contains("fallen off the bus") && told[0].fix.contains("reboot"), "{told:?}");
    assert_eq!(healthy(&tracker), (false, true));
    assert!(!tracker.healthy(A, "MIG-of-a"), "its instances too, all of them");
    assert!(tracker.why(A).is_some_and(|why| why.contains("Xid 79")));
    // told of once more, and not changed once more
    assert!(xid(&mut tracker, 79, 5_001).iter().all(|told| !told.changed));
}

#[test]
fn it_comes_back_when_it_was_well_for_a_while() {
    let mut tracker = tracker();
    xid(&mut tracker, 79, 0);
    assert_eq!((tracker.next(), tracker.due(9_999)), (Some(10_000), Vec::new()));
    // the driver says that no reset is needed: hold, and three looks
    assert_eq!(back(&mut tracker, SURE, 0), Some(12_000));
    assert_eq!(healthy(&tracker), (true, true));
    assert_eq!((tracker.next(), tracker.why(A)), (None, None));
}

#[test]
fn an_answer_alone_is_no_proof_after_what_wants_a_reset() {
    let mut tracker = tracker();
    xid(&mut tracker, 48, 0);
    assert_eq!(back(&mut tracker, ANSWERS, 0), Some(62_000), "hold_reset, and three looks");
    // unless it was gone and answers again: something brought it back
    let mut tracker = with(Rules { hold_reset: 60_000, ..Rules::default() });
    xid(&mut tracker, 79, 0);
    look(&mut tracker, Err("is lost"), 1_000);
    assert_eq!(back(&mut tracker, ANSWERS, 1_000), Some(12_000));
}

#[test]
fn one_bad_look_begins_the_count_again() {
    let mut tracker = tracker();
    xid(&mut tracker, 48, 0);
    for now in [10_000, 11_000] {
        assert_eq!(look(&mut tracker, SURE, now), []);
    }
    assert_eq!(look(&mut tracker, Err("the driver asks for a reset"), 12_000), []);
    for now in [13_000, 14_000] {
        assert_eq!(look(&mut tracker, SURE, now), []);
    }
    assert_eq!(healthy(&tracker), (false, true));
    assert_eq!(look(&mut tracker, SURE, 15_000).len(), 1);
    assert_eq!(healthy(&tracker), (true, true));
}

#[test]
fn looks_before_the_hold_do_not_count() {
    let mut tracker = tracker();
    xid(&mut tracker, 48, 0);
    for now in (0..10_000).step_by(500) {
        assert_eq!(look(&mut tracker, SURE, now), []);
    }
    assert_eq!(back(&mut tracker, SURE, 9_999), Some(12_500));
}

#[test]
fn who_comes_and_goes_stays_away_longer_each_time() {
    let mut tracker = tracker();
    let (mut now, mut times) = (0, Vec::new());
    for _ in 0..9 {
        xid(&mut tracker, 48, now);
        let then = back(&mut tracker, SURE, now).expect("comes back");
        times.push((then - now) / 1_000);
        now = then + 1;
    }
    assert_eq!(times, [12, 22, 42, 82, 162, 322, 642, 642, 642]);
    // an hour without a fault, and it begins anew
    xid(&mut tracker, 48, now + HOUR);
    assert_eq!(back(&mut tracker, SURE, now + HOUR), Some(now + HOUR + 12_000));
}

#[test]
fn a_look_alone_finds_a_fault() {
    let mut tracker = tracker();
    let told = look(&mut tracker, Err("it does not answer within a second"), 0);
    assert!(told.len() == 1 && told[0].changed && told[0].says.contains("does not answer"), "{told:?}");
    assert_eq!(back(&mut tracker, ANSWERS, 0), Some(12_000));
    assert_eq!(look(&mut tracker, SURE, 99_000), [], "a healthy card that is well is no news");
}

#[test]
fn a_programs_fault_is_told_and_takes_nothing_away() {
    let mut tracker = tracker();
    for number in [13, 31, 43, 68, 94, 137] {
        let told = xid(&mut tracker, number, 0);
        assert!(
            told.len() == 1 && !told[0].changed && told[0].healthy && told[0].grade == Grade::RestartApp,
            "{told:?}"
        );
    }
    for note in [45, 63, 92, 154] {
        assert_eq!(xid(&mut tracker, note, 0), [], "{note}");
    }
    assert_eq!(healthy(&tracker), (true, true));
    // 109 needs a reset, whatever a list that is older than it says
    assert_eq!(grade(109), Grade::Reset);
    assert_eq!(grade(9999), Grade::Suspect);
}

#[test]
fn what_must_be_replaced_does_not_come_back_by_itself() {
    let mut tracker = tracker();
    assert_eq!(xid(&mut tracker, 64, 0)[0].grade, Grade::Drain);
    assert_eq!(back(&mut tracker, SURE, 0), None);
    // a lighter fault after it changes nothing of that
    xid(&mut tracker, 9999, 50_000);
    assert!(tracker.why(A).is_some_and(|why| why.contains("Xid 64")), "{:?}", tracker.why(A));
    assert_eq!(back(&mut tracker, SURE, 50_000), None);
    let told = tracker.hear(&Event::Renewed { gpu: A.into() }, 60_000);
    assert!(told.len() == 1 && told[0].changed && told[0].healthy);
    assert_eq!(healthy(&tracker), (true, true));
}

#[test]
fn an_event_of_no_card_makes_all_suspect() {
    let mut tracker = tracker();
    let told = tracker.hear(&Event::Xid { gpu: None, number: 64 }, 0);
    assert_eq!(told.iter().filter(|told| told.changed && told.grade == Grade::Suspect).count(), 2);
    assert_eq!(healthy(&tracker), (false, false));
    assert_eq!(tracker.due(10_000), [A, B]);
    assert_eq!(tracker.hear(&Event::Xid { gpu: Some("GPU-unknown".into()), number: 79 }, 0), []);
}

#[test]
fn a_driver_that_does_not_answer_takes_all_and_gives_them_back() {
    let mut tracker = tracker();
    xid(&mut tracker, 79, 0);
    let gone = Event::Driver { well: Err("NVML hangs".into()) };
    let told = tracker.hear(&gone, 1_000);
    assert_eq!(told.iter().map(|told| told.changed).collect::<Vec<_>>(), [false, true]);
    assert_eq!((healthy(&tracker), tracker.due(99_000), tracker.next()), ((false, false), Vec::new(), None));
    assert_eq!(tracker.hear(&gone, 2_000), [], "once");
    assert_eq!(tracker.hear(&Event::Driver { well: Ok(()) }, 20_000), []);
    assert_eq!(healthy(&tracker), (false, false), "an answer is no proof yet");
    let mut news = Vec::new();
    for now in [20_000, 21_000, 22_000] {
        assert_eq!(tracker.due(now), [A, B]);
        for gpu in [A, B] {
            news.extend(tracker.hear(&Event::Probe { gpu: gpu.into(), well: Ok(Recovery::NotNeeded) }, now));
        }
    }
    assert_eq!((news.len(), healthy(&tracker)), (2, (true, true)));
}

#[test]
fn a_cordon_stands_over_health() {
    let mut tracker = tracker();
    let set = |uuids: &[&str]| uuids.iter().map(|uuid| uuid.to_string()).collect::<BTreeSet<_>>();
    let told = tracker.cordon(&set(&[A, "MIG-b0"]));
    assert!(told.len() == 2 && told.iter().all(|told| told.changed && !told.healthy), "{told:?}");
    assert_eq!(healthy(&tracker), (false, true));
    assert_eq!(
        (tracker.healthy(A, "MIG-a0"), tracker.healthy(B, "MIG-b0"), tracker.healthy(B, "MIG-b1")),
        (false, false, true)
    );
    assert_eq!(tracker.cordon(&set(&[A, "MIG-b0"])), []);
    // a fault comes and goes beneath it
    assert!(xid(&mut tracker, 48, 0).iter().all(|told| !told.changed));
    let told = tracker.cordon(&set(&[]));
    assert!(told.iter().all(|told| told.changed == (told.gpu != A)), "{told:?}");
    assert_eq!(healthy(&tracker), (false, true));
    tracker.cordon(&set(&[A]));
    assert_eq!(back(&mut tracker, SURE, 0), None, "well, and cordoned");
    assert!(tracker.why(A).is_some_and(|why| why.contains("cordoned")));
    assert!(tracker.cordon(&set(&[]))[0].changed);
    assert_eq!(healthy(&tracker), (true, true));
}

#[test]
fn cards_come_and_go() {
    let mut tracker = tracker();
    xid(&mut tracker, 79, 0);
    tracker.know(&[A.into(), "GPU-c".into()]);
    assert_eq!((healthy(&tracker), tracker.healthy("GPU-c", "GPU-c")), ((false, false), true));
    tracker.know(&["GPU-c".into()]);
    tracker.know(&[A.into()]);
    assert_eq!(healthy(&tracker), (true, false), "forgotten with the card");
}

#[test]
fn as_nvidias_variables_say() {
    let rules = |disable: &str, enable: &str| {
        let mut rules = Rules::default();
        let mut notes = rules.disable(disable);
        notes.extend(rules.enable(enable));
        (rules, notes.len())
    };
    let grade = |disable: &str, enable: &str, number: u64| rules(disable, enable).0.grade(number);
    assert_eq!(grade("", "", 79), Grade::Reset);
    assert_eq!(grade("79", "", 79), Grade::Ignore);
    assert_eq!(grade("XIDS", "", 79), Grade::Ignore);
    assert_eq!(grade("xids", "79", 79), Grade::Reset);
    assert_eq!(grade("xids", "79", 48), Grade::Ignore);
    assert_eq!(grade("79", "all", 79), Grade::Reset);
    // what the catalogue passes over counts where it is asked for
    assert_eq!(grade("", "13, 45", 13), Grade::Suspect);
    assert_eq!(grade("", "13, 45", 45), Grade::Suspect);
    assert_eq!(rules("48,abc", "-1").1, 2);
    assert!(rules("all", "").0.off && !rules("all", "79").0.off);
    let mut off = with(rules("all", "").0);
    assert_eq!((xid(&mut off, 79, 0), look(&mut off, Err("gone"), 0)), (Vec::new(), Vec::new()));
    assert_eq!(healthy(&off), (true, true));
}

/// Any order of events, at times that jump forward: no panic, `next` and `due` agree, what `changed` says is what `healthy`
/// shows, and once all is well for long every card is back but those to be replaced.
#[test]
fn any_history() {
    use crate::plugin::random::Random;
    let mut random = Random::new(79);
    let numbers = [13, 31, 45, 48, 63, 64, 79, 94, 109, 119, 9999];
    for _ in 0..2_000 {
        let mut tracker = tracker();
        let (mut now, mut drained) = (0, BTreeSet::new());
        for _ in 0..random.below(40) {
            now += random.below(20_000) as u64;
            let before = healthy(&tracker);
            let gpu = [A, B][random.below(2)];
            let event = match random.below(6) {
                0 | 1 => {
                    let number = numbers[random.below(numbers.len())];
                    if number == 64 {
                        drained.insert(gpu);
                    }
                    Event::Xid { gpu: Some(gpu.into()), number }
                }
                2 => Event::Driver { well: if random.below(3) == 0 { Err("hangs".into()) } else { Ok(()) } },
                3 => {
                    drained.remove(gpu);
                    Event::Renewed { gpu: gpu.into() }
                }
                _ => {
                    let well = [Ok(Recovery::NotNeeded), Ok(Recovery::Untold), Err("lost".to_owned())];
                    Event::Probe { gpu: gpu.into(), well: well[random.below(3)].clone() }
                }
            };
            let told = tracker.hear(&event, now);
            let after = healthy(&tracker);
            for (card, was, is) in [(A, before.0, after.0), (B, before.1, after.1)] {
                assert_eq!(told.iter().any(|told| told.gpu == card && told.changed), was != is, "{event:?} {told:?}");
            }
            assert_eq!(tracker.next().is_some_and(|next| next <= now), !tracker.due(now).is_empty());
        }
        tracker.hear(&Event::Driver { well: Ok(()) }, now);
        now += 64 * 60_000 + 1;
        for _ in 0..4 {
            for gpu in tracker.due(now) {
                tracker.hear(&Event::Probe { gpu, well: Ok(Recovery::NotNeeded) }, now);
            }
            now += 1_000;
        }
        assert_eq!(healthy(&tracker), (!drained.contains(A), !drained.contains(B)));
    }
}
