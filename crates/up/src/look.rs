//! A first look at a host, for a way file that is still to be written: a copy of thruway below /tmp, taken away again.

use std::path::Path;

use crate::reach::{Ask, At, Reach, quote};
use crate::remote::{Answer, Card, Remote, SHORT, VmSays};
use crate::visit::shell;

/// Its cards and its VMs.
pub fn look(
    at: &str,
    sudo: bool,
    program: &Path,
    control: &Path,
    terminal: bool,
    password: &dyn Fn(&str) -> Option<String>,
) -> Result<(Vec<Card>, Vec<VmSays>), Answer> {
    let mut reach = Reach::new(At::of(at), None, control);
    reach.open(terminal)?;
    if sudo && !reach.is_here() {
        reach.prepare_sudo(password)?;
    }
    let here = reach.is_here();
    let mut dir = None;
    let there = if here {
        program.display().to_string()
    } else {
        let (code, made) = shell(&reach, "mktemp -d /tmp/thruway-look-XXXXXX", false, SHORT)?;
        let made = made.trim().to_owned();
        if code != 0 || !made.starts_with("/tmp/thruway-look-") {
            return Err(Answer::Said { says: format!("no directory can be made below /tmp of {at}: {made}") });
        }
        let there = format!("{made}/thruway");
        let words = ["sh".to_owned(), "-c".to_owned(), format!("cat > {0} && chmod 755 {0}", quote(&there))];
        reach.run(&Ask { words: &words, root: false, file: Some(program), limit: SHORT * 10 }, &mut |_| {})?;
        dir = Some(made);
        there
    };
    let remote = Remote { reach: &reach, program: there, machine: Vec::new(), root: sudo && !here };
    let seen = remote.cards().and_then(|cards| Ok((cards, remote.vms()?)));
    if let Some(dir) = dir {
        shell(&reach, &format!("rm -rf -- {}", quote(&dir)), false, SHORT)?;
    }
    reach.close();
    seen
}
