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
                OutcomeState::Pending("a reboot of this machine".into())
            }
            None => OutcomeState::Failed("nothing keeps nouveau from loading".into()),
        };
        all.push(Outcome { says: format!("nouveau does not hold {}", bdf.short()), state, evidence });
        let state = match (unread, holder) {
            (Some(reason), _) => OutcomeState::Unknown(reason.to_string()),
            (None, "nvidia") => OutcomeState::Held,
            _ => OutcomeState::Pending(match advice::needs(facts) {
                Some(needs) => format!("the installation of NVIDIA's driver by hand: {}", needs.says),
                None => "the installation of NVIDIA's driver by hand".into(),
            }),
        };
        let evidence = vec![Evidence { source, value: holder.to_owned() }];
        all.push(Outcome { says: format!("NVIDIA's driver runs {}", bdf.short()), state, evidence });
    }
    all
}
