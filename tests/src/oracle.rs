//! What the clients know of a server that may die: what they sent, what was acknowledged, what got no answer.
//!
//! Invariants: the oracle lives outside the server; it knows of a change before its first byte leaves; a register has one
//! change in flight at most (races on one branch are kept apart); what was once observed counts as acknowledged from then
//! on: the server must not change its mind.

use std::collections::{BTreeMap, BTreeSet};

/// What a register is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A branch; its value is its head.
    Branch,
    /// A release; its value is the commit that it names.
    Release,
    /// A tag; its value is its commit.
    Tag,
    /// A repository that comes and goes; its value is [`EMPTY`] or the head of its only branch.
    Repo,
}

/// The value of a repository without branches.
pub const EMPTY: &str = "empty";

/// One register: a repository, a kind, a name in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Register {
    /// `owner/slug`.
    pub repo: String,
    /// What it is.
    pub kind: Kind,
    /// Branch or label.
    pub name: String,
}

impl Register {
    /// A register.
    pub fn new(repo: &str, kind: Kind, name: &str) -> Register {
        Register { repo: repo.to_owned(), kind, name: name.to_owned() }
    }
}

/// The values that one register had, in order; `None`: it is not there.
#[derive(Clone, Debug)]
struct History {
    values: Vec<Option<String>>,
    /// Index of the last value that is certain. Behind it there is at most one, in flight.
    acked: usize,
}

impl Default for History {
    fn default() -> History {
        History { values: vec![None], acked: 0 }
    }
}

/// A branch that several clients push to: each success builds on the one before.
#[derive(Clone, Default, Debug)]
struct Race {
    acked: Vec<String>,
    open: BTreeSet<String>,
}

/// Where the registers of a repository were when a read began.
#[derive(Clone, Debug)]
pub struct ReadBegun {
    registers: BTreeMap<Register, usize>,
    races: BTreeMap<String, usize>,
}

/// A push that must stand in the log exactly once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AckedPush {
    /// `owner/slug`.
    pub repo: String,
    /// The branch.
    pub branch: String,
    /// Where the branch was moved to.
    pub head: String,
}

/// Knowledge about everything.
#[derive(Clone, Default, Debug)]
pub struct Oracle {
    registers: BTreeMap<Register, History>,
    races: BTreeMap<(String, String), Race>,
    pushes: BTreeMap<String, AckedPush>,
    heads: BTreeMap<String, Vec<String>>,
    /// Changes without an answer that turned out to have happened.
    pub unknown_happened: u64,
    /// Changes without an answer that turned out not to have happened.
    pub unknown_did_not: u64,
}

impl Oracle {
    /// A change of `register` to `value` is about to be sent.
    pub fn sent(&mut self, register: &Register, value: Option<&str>) {
        let history = self.registers.entry(register.clone()).or_default();
        assert_eq!(history.acked + 1, history.values.len(), "{register:?}: one change at a time");
        history.values.push(value.map(str::to_owned));
    }

    /// Its success was seen.
    pub fn acked(&mut self, register: &Register) {
        let history = self.registers.entry(register.clone()).or_default();
        history.acked = history.values.len() - 1;
        if let (Kind::Branch, Some(head)) = (register.kind, history.values[history.acked].clone()) {
            self.heads.entry(register.repo.clone()).or_default().push(head);
        }
    }

    /// Its refusal was seen: the value must never appear.
    pub fn refused(&mut self, register: &Register) {
        let history = self.registers.entry(register.clone()).or_default();
        history.values.truncate(history.acked + 1);
    }

    /// The value that is certain.
    pub fn value(&self, register: &Register) -> Option<&str> {
        self.registers.get(register).and_then(|history| history.values[history.acked].as_deref())
    }

    /// A push to a contested branch is about to be sent.
    pub fn race_sent(&mut self, repo: &str, branch: &str, head: &str) {
        self.race(repo, branch).open.insert(head.to_owned());
    }

    /// It won.
    pub fn race_acked(&mut self, repo: &str, branch: &str, head: &str) {
        let race = self.race(repo, branch);
        race.open.remove(head);
        race.acked.push(head.to_owned());
        self.heads.entry(repo.to_owned()).or_default().push(head.to_owned());
    }

    /// It lost: it must never appear.
    pub fn race_refused(&mut self, repo: &str, branch: &str, head: &str) {
        self.race(repo, branch).open.remove(head);
    }

    /// The push of this id was acknowledged.
    pub fn push_acked(&mut self, push_id: &str, push: AckedPush) {
        let before = self.pushes.insert(push_id.to_owned(), push.clone());
        assert!(before.is_none_or(|before| before == push), "{push_id} was acknowledged for something else");
    }

    /// Every acknowledged push with its id.
    pub fn pushes(&self) -> &BTreeMap<String, AckedPush> {
        &self.pushes
    }

    /// Every head that a branch of `repo` ever had for certain, oldest first.
    pub fn heads(&self, repo: &str) -> &[String] {
        self.heads.get(repo).map_or(&[], Vec::as_slice)
    }

    /// Judges what the server shows after a restart, name by name, and settles what was unknown. `seen` is all there is.
    pub fn judge(&mut self, repo: &str, kind: Kind, seen: &BTreeMap<String, String>) -> Result<(), String> {
        let mut happened = Vec::new();
        for (register, history) in
            self.registers.iter_mut().filter(|(register, _)| register.repo == repo && register.kind == kind)
        {
            let (value, last) = (seen.get(&register.name), history.values.len() - 1);
            if value == history.values[history.acked].as_ref() {
                self.unknown_did_not += u64::from(last > history.acked);
                history.values.truncate(history.acked + 1);
            } else if value == history.values[last].as_ref() {
                self.unknown_happened += 1;
                happened.push(register.clone());
            } else {
                let (acked, unknown) = (&history.values[history.acked], &history.values[history.acked + 1..]);
                return Err(format!("{register:?} is {value:?}; acknowledged {acked:?}, unanswered {unknown:?}"));
            }
        }
        happened.iter().for_each(|register| self.acked(register));
        let known = |name: &String| {
            let raced = kind == Kind::Branch && self.races.contains_key(&(repo.to_owned(), name.clone()));
            raced || self.registers.contains_key(&Register::new(repo, kind, name))
        };
        match seen.keys().find(|name| !known(name)) {
            Some(name) => Err(format!("{repo}: nobody made {kind:?} {name}")),
            None => Ok(()),
        }
    }

    /// Judges a contested branch after a restart. `line` is its head and all ancestors, newest first.
    pub fn judge_race(&mut self, repo: &str, branch: &str, line: &[String]) -> Result<(), String> {
        let race = self.races.entry((repo.to_owned(), branch.to_owned())).or_default();
        race.check(line, 0)?;
        let happened: Vec<String> = line.iter().rev().filter(|head| race.open.remove(*head)).cloned().collect();
        self.unknown_happened += happened.len() as u64;
        self.unknown_did_not += race.open.len() as u64;
        race.open.clear();
        race.acked.extend(happened.iter().cloned());
        self.heads.entry(repo.to_owned()).or_default().extend(happened);
        Ok(())
    }

    /// To be called before the first byte of a read.
    pub fn begin_read(&self, repo: &str) -> ReadBegun {
        let own = self.registers.iter().filter(|(register, _)| register.repo == repo);
        let races = self.races.iter().filter(|((known, _), _)| known == repo);
        ReadBegun {
            registers: own.map(|(register, history)| (register.clone(), history.acked)).collect(),
            races: races.map(|((_, branch), race)| (branch.clone(), race.acked.len())).collect(),
        }
    }

    /// Judges one value that a read gave, the server alive: no older than what was acknowledged before the read began.
    pub fn judge_read(&self, begun: &ReadBegun, register: &Register, seen: Option<&str>) -> Result<(), String> {
        let none = History::default();
        let history = self.registers.get(register).unwrap_or(&none);
        let from = begun.registers.get(register).copied().unwrap_or_default();
        match history.values[from..].iter().any(|value| value.as_deref() == seen) {
            true => Ok(()),
            false => Err(format!("{register:?} was read as {seen:?}; possible were {:?}", &history.values[from..])),
        }
    }

    /// The same for a contested branch.
    pub fn judge_race_read(&self, begun: &ReadBegun, repo: &str, branch: &str, line: &[String]) -> Result<(), String> {
        let Some(race) = self.races.get(&(repo.to_owned(), branch.to_owned())) else {
            return Err(format!("{repo}: nobody made {branch}"));
        };
        race.check(line, race.acked.len() - begun.races.get(branch).copied().unwrap_or_default())
    }

    /// All registers of a repository.
    pub fn registers(&self, repo: &str) -> Vec<Register> {
        self.registers.keys().filter(|register| register.repo == repo).cloned().collect()
    }

    /// Whether the repository itself is a register.
    pub fn comes_and_goes(&self, repo: &str) -> bool {
        self.registers.keys().any(|register| register.repo == repo && register.kind == Kind::Repo)
    }

    /// Whether several clients push to this branch.
    pub fn is_race(&self, repo: &str, branch: &str) -> bool {
        self.races.contains_key(&(repo.to_owned(), branch.to_owned()))
    }

    /// Contested branches of a repository.
    pub fn races(&self, repo: &str) -> Vec<String> {
        self.races.keys().filter(|(known, _)| known == repo).map(|(_, branch)| branch.clone()).collect()
    }

    fn race(&mut self, repo: &str, branch: &str) -> &mut Race {
        self.races.entry((repo.to_owned(), branch.to_owned())).or_default()
    }
}

impl Race {
    /// Every commit of the line was acknowledged or is open, and but for the `newest` every acknowledged one is in it.
    fn check(&self, line: &[String], newest: usize) -> Result<(), String> {
        let in_line: BTreeSet<&String> = line.iter().collect();
        let acked: BTreeSet<&String> = self.acked.iter().collect();
        if let Some(lost) = self.acked[..self.acked.len() - newest].iter().find(|head| !in_line.contains(head)) {
            return Err(format!("{lost} won the race and is not in the branch's history: {line:?}"));
        }
        match line.iter().find(|head| !acked.contains(head) && !self.open.contains(*head)) {
            Some(ghost) => Err(format!("{ghost} was refused or never sent and is in the branch's history")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(head: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("main".to_owned(), head.to_owned())])
    }

    fn line(heads: &[&str]) -> Vec<String> {
        heads.iter().map(|head| (*head).to_owned()).collect()
    }

    #[test]
    fn a_lost_ack_a_ghost_and_a_rollback_are_all_found() {
        let (mut oracle, main) = (Oracle::default(), Register::new("r", Kind::Branch, "main"));
        oracle.sent(&main, Some("a"));
        oracle.acked(&main);
        oracle.sent(&main, Some("b"));
        let judge = |oracle: &Oracle, seen| oracle.clone().judge("r", Kind::Branch, &seen);
        assert!(judge(&oracle, BTreeMap::new()).is_err(), "an acknowledged push was lost");
        assert!(judge(&oracle, seen("x")).is_err(), "a head from nowhere");
        assert!(judge(&oracle, seen("a")).is_ok(), "the unknown push did not happen");
        oracle.judge("r", Kind::Branch, &seen("b")).unwrap();
        assert!(judge(&oracle, seen("a")).is_err(), "what was seen must not go away");
        let ghost = BTreeMap::from([("main".to_owned(), "b".to_owned()), ("other".to_owned(), "b".to_owned())]);
        assert!(judge(&oracle, ghost).is_err(), "a branch from nowhere");
        oracle.sent(&main, Some("c"));
        oracle.refused(&main);
        assert!(judge(&oracle, seen("c")).is_err(), "a refused push happened");
    }

    #[test]
    fn a_read_that_is_older_than_an_acknowledgement_before_it_is_found() {
        let (mut oracle, main) = (Oracle::default(), Register::new("r", Kind::Branch, "main"));
        oracle.sent(&main, Some("a"));
        let before = oracle.begin_read("r");
        oracle.acked(&main);
        let after = oracle.begin_read("r");
        assert!(oracle.judge_read(&before, &main, None).is_ok());
        assert!(oracle.judge_read(&before, &main, Some("a")).is_ok());
        assert!(oracle.judge_read(&after, &main, None).is_err());
        assert!(oracle.judge_read(&after, &main, Some("x")).is_err());
    }

    #[test]
    fn a_winner_that_vanishes_and_a_loser_that_appears_are_found() {
        let mut oracle = Oracle::default();
        for head in ["a", "b", "loser", "open"] {
            oracle.race_sent("r", "main", head);
        }
        oracle.race_acked("r", "main", "a");
        let begun = oracle.begin_read("r");
        oracle.race_acked("r", "main", "b");
        oracle.race_refused("r", "main", "loser");
        assert!(oracle.judge_race_read(&begun, "r", "main", &line(&["a"])).is_ok(), "b came after the read began");
        assert!(oracle.judge_race_read(&begun, "r", "main", &line(&[])).is_err(), "a was acknowledged before");
        assert!(oracle.clone().judge_race("r", "main", &line(&["a"])).is_err(), "b is lost");
        assert!(oracle.clone().judge_race("r", "main", &line(&["loser", "b", "a"])).is_err());
        oracle.judge_race("r", "main", &line(&["open", "b", "a"])).unwrap();
        assert!(oracle.judge_race("r", "main", &line(&["b", "a"])).is_err(), "what was seen must not go away");
    }
}
