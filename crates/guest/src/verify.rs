//! Whether the plan's effect is there: judged by what holds the card, not by what is written.

use model::{Evidence, Intent, Outcome, OutcomeState, Seen, Source};

use crate::{Facts, advice};

pub fn verify(facts: &Facts, intent: &Intent) -> Vec<Outcome> {
    if !facts.here() || crate::plan::given_away(facts, intent) {
        return Vec::new();
    }
    let mut all = Vec::new();
    for card in facts.usable() {
        let bdf = card.identity.bdf;
        let source = Source::file(format!("/sys/bus/pci/devices/{bdf}/driver"));
        let holder = match &card.driver {
            Seen::Is(driver) => driver.as_str(),
            _ => "no driver",
        };
        let unread = card.driver.unreadable();
        let mut evidence = vec![Evidence { source: source.clone(), value: holder.to_owned() }];
        let state = match unread {
            Some(reason) => OutcomeState::Unknown(reason.to_string()),
            None if holder != "nouveau" => OutcomeState::Held,
            None if !facts.nouveau_off.is_empty() => {
                let written = facts.nouveau_off.iter();
                evidence.extend(written.map(|line| Evidence { source: line.source.clone(), value: line.text.clone() }));
                OutcomeState::Pending(model::A_REBOOT.into())
            }
            None => OutcomeState::Failed("nothing keeps nouveau from loading".into()),
        };
        all.push(Outcome { says: format!("nouveau does not hold {}", bdf.short()), state, evidence });
        let state = match (unread, holder) {
            (Some(reason), _) => OutcomeState::Unknown(reason.to_string()),
            (None, "nvidia") => OutcomeState::Held,
            _ => waits(facts),
        };
        let evidence = vec![Evidence { source, value: holder.to_owned() }];
        all.push(Outcome { says: format!("NVIDIA's driver runs {}", bdf.short()), state, evidence });
    }
    all.extend(built(facts));
    all
}

/// What a card without NVIDIA's driver waits for.
fn waits(facts: &Facts) -> OutcomeState {
    let key = facts.secure_boot.get() == Some(&true) && facts.enrolled.get() != Some(&true);
    if facts.has_driver_module() && key {
        let says = "the enrolment of the key that signed its module, at the console: sudo mokutil --import, then MokManager \
                    at the next boot";
        return OutcomeState::Pending(says.into());
    }
    if facts.has_driver_module() {
        return OutcomeState::Pending(model::A_REBOOT.into());
    }
    OutcomeState::Pending(match advice::needs(facts) {
        Some(needs) => format!("the installation of NVIDIA's driver: {}", needs.says),
        None => "the installation of NVIDIA's driver by hand".into(),
    })
}

/// Is the module of an installed driver there for the kernel that runs? DKMS may have failed, and apt said well.
fn built(facts: &Facts) -> Option<Outcome> {
    let package = facts.packages.get()?.iter().find(|package| package.driver())?;
    let release = facts.release.get()?;
    let evidence =
        vec![Evidence { source: package.source.clone(), value: format!("{} {}", package.name, package.version) }];
    let state = match &facts.built.value {
        _ if facts.has_driver_module() => OutcomeState::Held,
        Seen::Unreadable(reason) => OutcomeState::Unknown(reason.to_string()),
        _ => OutcomeState::Failed(format!("{} lists no nvidia.ko: dkms status", facts.built.source)),
    };
    Some(Outcome { says: format!("NVIDIA's module is built for {release}"), state, evidence })
}
