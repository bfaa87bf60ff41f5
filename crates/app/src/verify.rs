//! Whether Jellyfin's settings fit the card. The file says what the next start will use; what the running Jellyfin
//! uses shows in its transcode logs.

use model::{Evidence, Intent, Outcome, OutcomeState, Seen, Source};

use crate::{Facts, server, settings};

pub fn verify(facts: &Facts, intent: &Intent) -> Vec<Outcome> {
    if let Some(server) = &facts.server {
        return server::verify(facts, server, intent);
    }
    let wish = intent.jellyfin.as_ref();
    let codecs = match facts.codecs_of(wish) {
        Seen::Is(codecs) => codecs,
        _ => return Vec::new(),
    };
    let wanted = settings::fitting(&codecs);
    let mut all = Vec::new();
    for config in &facts.configs {
        let says = format!("Jellyfin's settings in {} fit the {}", config.path, facts.names_of(wish));
        let (state, values) = match &config.xml {
            Seen::Is(xml) => {
                let differ = wanted.write(&mut xml.clone());
                match differ.is_empty() {
                    true => (OutcomeState::Held, vec!["nothing to change".to_owned()]),
                    false => (OutcomeState::Failed("some settings are not what the card can do".into()), differ),
                }
            }
            Seen::Absent => continue,
            Seen::Unreadable(reason) => (OutcomeState::Unknown(reason.to_string()), Vec::new()),
        };
        let source = Source::file(&config.path);
        let evidence = values.into_iter().map(|value| Evidence { source: source.clone(), value }).collect();
        all.push(Outcome { says, state, evidence });
    }
    all
}
