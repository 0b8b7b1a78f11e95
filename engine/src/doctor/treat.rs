//! Treating: what can be made whole is made whole, step by step, until no step is left that proves itself; then the loss that was
//! named, if one was, is cut away; then the packs.
//!
//! Invariants: after each round the log is looked at anew, so that what one step made readable can vouch for the next; what was
//! done is told however it ends; nothing irreversible is done but what [`Orders::accept_loss_after`] names, and
//! [`Orders::before_cut`] is asked right before it.

use std::{collections::BTreeSet, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    Diagnosis, Files, Listener, Remedy,
    aside::{self, copy_whole},
    copies::{Copies, Source},
    examine::{examine, go_on, path_of},
};
use crate::{
    disk::DiskFile,
    error::{Error, Result},
    id::{LogId, PackId, Position},
    log::{files::ANCHOR, scan::read_up_to},
    store::StoreKey,
};

/// What may be done.
#[derive(Clone, Default)]
pub struct Orders {
    /// An intact copy to take bytes from.
    pub from: Option<Copies>,
    /// End the log at this position: where it stops being readable, or where a copy of its end does.
    pub accept_loss_after: Option<Position>,
    /// What must be done right before events are given up.
    pub before_cut: Option<BeforeCut>,
}

/// Done right before events are given up, perhaps more than once. Answers what it did, if it did anything; an error leaves the log
/// as it is.
pub type BeforeCut = Arc<dyn Fn() -> Result<Option<String>> + Send + Sync>;

/// What was done.
#[derive(Debug, Default)]
pub struct Treatment {
    /// One line for each thing done.
    pub done: Vec<String>,
    /// One line for each thing that could not be done, with what would help.
    pub left: Vec<String>,
    /// How it is now; `None` if it ended early.
    pub after: Option<Diagnosis>,
    /// Why it ended early.
    pub ended: Option<Error>,
}

/// Does what is allowed.
pub(super) fn treat(
    files: &Files,
    found: &Diagnosis,
    orders: &Orders,
    stamp: &str,
    listener: Listener<'_>,
) -> Treatment {
    let (done, left, mended, taken) = Default::default();
    let mut work = Work { files, orders, stamp, listener, from: None, mended, taken, done, left };
    let treated = work.all(found);
    let told = work.report();
    let Work { done, left, .. } = work;
    match treated.and_then(|after| told.map(|()| after)) {
        Ok(after) => Treatment { done, left, after: Some(after), ended: None },
        Err(error) => Treatment { done, left, after: None, ended: Some(error) },
    }
}

/// A treatment under way.
pub(super) struct Work<'a> {
    pub(super) files: &'a Files,
    pub(super) orders: &'a Orders,
    pub(super) stamp: &'a str,
    listener: Listener<'a>,
    pub(super) from: Option<Source>,
    /// Segments that were made whole, and those that were taken from the copy: none is twice, so the rounds end.
    pub(super) mended: BTreeSet<Position>,
    pub(super) taken: BTreeSet<Position>,
    pub(super) done: Vec<String>,
    pub(super) left: Vec<String>,
}

/// What became of a gap.
pub(super) enum Step {
    /// It is smaller, or gone.
    Done,
    /// The log ends before it now.
    Cut,
    /// It is as it was: why.
    Left(String),
}

impl Work<'_> {
    fn all(&mut self, found: &Diagnosis) -> Result<Diagnosis> {
        self.from = self.orders.from.as_ref().map(Source::of).transpose()?;
        let packs = found.packs.is_some();
        let mut now = found.clone();
        loop {
            let done = self.done.len();
            self.left.clear();
            self.log(&now)?;
            if self.done.len() == done {
                break;
            }
            now = self.look(false)?;
        }
        self.cut(&now)?;
        if !self.done.is_empty() {
            // Events that can be read again name packs that nobody looked at.
            now = self.look(packs)?;
        }
        let done = self.done.len();
        self.packs(&now)?;
        if self.done.len() > done {
            now = self.look(packs)?;
        }
        Ok(now)
    }

    fn look(&mut self, packs: bool) -> Result<Diagnosis> {
        examine(self.files, packs, &mut *self.listener)
    }

    /// One try at every part of the log that is not as it should be.
    fn log(&mut self, now: &Diagnosis) -> Result<()> {
        let disk = &*self.files.disk;
        for path in [path_of(Position::ZERO), ANCHOR.to_owned()] {
            if now.has(&path, Remedy::Derive) {
                let kept = aside::take_away(disk, &path, self.stamp)?;
                self.done.push(format!("{path}: taken away, kept as {kept}"));
            }
        }
        if now.gaps.is_empty() {
            return Ok(());
        }
        let Some(log) = self.which_log(now)? else {
            self.left.push("nothing says which log this is: put an intact copy of log/ in its place".to_owned());
            return Ok(());
        };
        for gap in &now.gaps {
            go_on(&mut *self.listener, 0, 1)?;
            let stands = self.mend(log, now.anchor, gap)?;
            match if stands { Step::Done } else { self.fill(log, now, gap)? } {
                Step::Done => {}
                // What comes behind is not there any more.
                Step::Cut => return Ok(()),
                Step::Left(why) => self.left.push(format!("{}: {why}", path_of(gap.from))),
            }
        }
        Ok(())
    }

    /// What the log says; if nothing of it does, the log of the copy, if the packs are of that one.
    fn which_log(&self, now: &Diagnosis) -> Result<Option<LogId>> {
        let Some(log) = self.from.as_ref().filter(|_| now.log.is_none()).map(Source::log).transpose()?.flatten() else {
            return Ok(now.log);
        };
        Ok(self.files.packs().claim(log, false).is_ok().then_some(log))
    }

    fn packs(&mut self, now: &Diagnosis) -> Result<()> {
        for finding in &now.findings {
            match finding.remedy {
                Remedy::CopyOrPush => {
                    go_on(&mut *self.listener, 0, 1)?;
                    self.pack(&finding.file)?;
                }
                Remedy::Push | Remedy::Person => {
                    self.left.push(format!("{}: {}; {}", finding.file, finding.problem, finding.remedy));
                }
                Remedy::NextStart | Remedy::Derive | Remedy::Copy => {}
            }
        }
        Ok(())
    }

    fn pack(&mut self, path: &str) -> Result<()> {
        if self.files.bucket.is_some() {
            let help = "`reprise scrub --repair` puts the local copy there, if that is sound; else push the same content again";
            self.left.push(format!("{path}: start the server: {help}"));
            return Ok(());
        }
        let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".pack"));
        let Some(pack) = name.and_then(|name| <[u8; 32]>::try_from(hex::decode(name).ok()?).ok()).map(PackId) else {
            return Ok(());
        };
        let (disk, key) = (&*self.files.pack_files, StoreKey::pack(pack));
        let copy = match self.from.as_ref().map(|from| from.pack_files.open(key.as_str())) {
            Some(Ok(copy)) => copy,
            Some(Err(error)) if !error.is_not_found() => return Err(error),
            _ => {
                self.left.push(format!("{path}: an intact copy is needed (--from DIR), or a push of the same content"));
                return Ok(());
            }
        };
        let proven = |disk: &dyn crate::disk::Disk, path: &str| Ok(sha256(&*disk.open(path)?)? == pack.0);
        match aside::make(disk, &|into| copy_whole(&*copy, into), &proven)? {
            Some(mended) => {
                let kept = mended.put(disk, key.as_str(), self.stamp)?;
                let kept = kept.map(|kept| format!("{}{kept}", self.files.pack_root));
                self.tell(path, "taken from the copy", kept);
            }
            None => self.left.push(format!("{path}: the copy is damaged too")),
        }
        Ok(())
    }

    /// Notes what was done, and where what stood there before is kept.
    pub(super) fn tell(&mut self, path: &str, what: &str, kept: Option<String>) {
        let kept = kept.map_or_else(String::new, |kept| format!("; what stood there is kept as {kept}"));
        self.done.push(format!("{path}: {what}{kept}"));
    }

    /// Leaves what was done beside what was kept.
    fn report(&self) -> Result<()> {
        if self.done.is_empty() {
            return Ok(());
        }
        let text: String = self.done.iter().chain(&self.left).map(|line| format!("{line}\n")).collect();
        aside::leave(&*self.files.disk, "report.txt", self.stamp, text.as_bytes())
    }
}

fn sha256(file: &dyn DiskFile) -> Result<[u8; 32]> {
    let (mut hash, mut at) = (Sha256::new(), 0);
    let mut piece = vec![0; 256 << 10];
    loop {
        let got = read_up_to(file, &mut piece, at)?;
        hash.update(&piece[..got]);
        at += got as u64;
        if got < piece.len() {
            return Ok(hash.finalize().into());
        }
    }
}
