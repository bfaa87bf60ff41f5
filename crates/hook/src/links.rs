//! Links by `--link TARGET::LINK`.

use std::collections::{HashMap, HashSet};

use rustix::fs::FileType;

use crate::root::{Dir, Listing, Root, RootError, split};
use crate::{Error, Link, Report};

/// Makes each link whose target is there. The text is data: where it leads out of the container, it leads there only for
/// the container's own eyes, and what we look for is looked for inside the root.
///
/// `listed`: what the driver's folders hold; what is made there is added.
pub fn make(root: &Root, links: &[Link], listed: &mut Listed, report: &mut Report) -> Result<(), Error> {
    let mut waiting: Vec<&Link> = links.iter().collect();
    let mut making = Making { root, last: None, listed };
    // a link may be another's target, and come after it
    loop {
        let before = waiting.len();
        let mut absent = Vec::new();
        for link in waiting {
            if !making.one(link, report)? {
                absent.push(link);
            }
        }
        if absent.is_empty() || absent.len() == before {
            return Ok(());
        }
        waiting = absent;
    }
}

/// Most links of a driver are in one directory: it is resolved once.
struct Making<'a, 'b> {
    root: &'a Root<'b>,
    last: Option<(&'a str, Dir)>,
    listed: &'a mut Listed,
}

/// What is known of the driver's folders once the links are made.
#[derive(Default)]
pub struct Listed {
    /// By their paths in the options, each listed once.
    folders: HashMap<String, Listing>,
    /// Links of the options that stand.
    standing: HashSet<String>,
}

impl Listed {
    pub fn of(root: &Root, folders: &[String]) -> Self {
        let list = |path: &String| Some((path.clone(), root.listing(&root.open_dir(path).ok()?).ok()?));
        Listed { folders: folders.iter().filter_map(list).collect(), standing: HashSet::new() }
    }

    pub fn take(&mut self, folder: &str) -> Option<Listing> {
        self.folders.remove(folder)
    }

    pub fn stands(&self, link: &str) -> bool {
        self.standing.contains(link)
    }
}

impl<'a> Making<'a, '_> {
    /// False: its target is not there.
    fn one(&mut self, link: &'a Link, report: &mut Report) -> Result<bool, RootError> {
        let Link { target, link, dangling } = link;
        let Some((parent, name)) = split(link).filter(|_| !target.is_empty()) else {
            report.warnings.push(format!("{target}::{link} can be no link; it was not made"));
            return Ok(true);
        };
        let parent = if parent.is_empty() { "/" } else { parent };
        if !*dangling && !self.is_there(parent, target)? {
            return Ok(false);
        }
        let beside = target.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
        if target == name || beside == Some(name) {
            return Ok(true);
        }
        let root = self.root;
        match self.dir(parent).and_then(|dir| root.link(dir, name, target)) {
            Ok(made) => {
                if let Some(listing) = self.listed.folders.get_mut(parent) {
                    listing.insert(name.to_owned(), FileType::Symlink);
                }
                self.listed.standing.insert(link.clone());
                if made {
                    report.changed.push(link.clone());
                }
            }
            Err(error) if error.left_alone() => report.warnings.push(format!("{error}; it is left as it is")),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn dir(&mut self, parent: &'a str) -> Result<&Dir, RootError> {
        let dir = match self.last.take().filter(|(path, _)| *path == parent) {
            Some((_, dir)) => dir,
            None => self.root.make_dir(parent, true)?,
        };
        Ok(&self.last.insert((parent, dir)).1)
    }

    fn is_there(&self, parent: &str, target: &str) -> Result<bool, RootError> {
        // a file beside it needs no path, where its directory is open or listed; a link there is followed by its path
        if !target.contains('/') {
            let listed = self.listed.folders.get(parent).map(|listing| listing.get(target).copied());
            let seen = match (listed, self.last.as_ref().filter(|(path, _)| *path == parent)) {
                (Some(listed), _) => Some(listed),
                (None, Some((_, dir))) => Some(self.root.kind(dir, target)?),
                (None, None) => None,
            };
            match seen {
                Some(Some(FileType::RegularFile)) => return Ok(true),
                Some(None) => return Ok(false),
                Some(Some(_)) | None => {}
            }
        }
        self.root.is_there(&if target.starts_with('/') { target.to_owned() } else { format!("{parent}/{target}") })
    }
}
