//! Taking turns in a log that several servers write: who may write next, as one server sees it.
//!
//! Invariants: courtesy only, nothing is decided on it that must be right; no messages, only who wrote which group, how many looks
//! there were, and whether something was long ago; whoever has something to write writes after [`PATIENCE`] looks in a row that found
//! nothing of those whom he waits for, whatever else they found, and after the looks of a pause.
//!
//! The winner of an ordinal could go on at once, while the others must first read what he wrote: they come too late for the next one
//! too, again and again. So after a group of its own a server lets everyone have a group who had one between its last two. Once
//! they know each other they write in a circle, each as much as came to it meanwhile. Who is new is not waited for: he tries until
//! he meets a moment when nobody writes. Such moments are made on purpose: in company a pause after each group, which ends when
//! anyone writes and so costs a circle nothing, and a long one now and then, when one's turn has come; alone, pauses that
//! become ever more seldom.

use std::collections::BTreeSet;

use crate::log::slot::ServerId;

/// What a server knows of the others' turns.
#[derive(Default)]
pub(super) struct Turns {
    /// They wrote between our last two groups, and nothing since.
    owed: BTreeSet<ServerId>,
    /// They wrote since our last group.
    wrote: BTreeSet<ServerId>,
    /// Looks that may still find nothing of those who are owed before they are thought to want nothing.
    patience: u32,
    /// Looks of a pause that are still to come.
    pause: u32,
    /// The same of a long one, which is made when our turn has come.
    long: u32,
    /// Groups of ours since the last long pause, or, without company, since the last pause.
    groups: u32,
    /// Without company: so many are written before the next pause.
    stretch: u32,
    /// When our last group was written,
    wrote_ms: u64,
    /// and when the last one of others was read.
    read_ms: u64,
}

impl Turns {
    /// We may write.
    pub(super) fn is_ours(&self) -> bool {
        self.pause == 0 && self.long == 0 && self.owed.is_empty()
    }

    /// A group of ours was written. `busy`: several had asked for it, or others waited behind it.
    pub(super) fn we_wrote(&mut self, busy: bool, now_ms: u64) {
        self.owed = std::mem::take(&mut self.wrote);
        (self.patience, self.wrote_ms) = (PATIENCE, now_ms);
        self.groups += 1;
        if now_ms.saturating_sub(self.read_ms) < COMPANY_MS {
            self.pause = if busy { PAUSE } else { 1 };
            if self.groups >= GROUPS_MAX {
                (self.groups, self.long) = (0, LONG_PAUSE);
            }
        } else if busy && self.groups >= self.stretch {
            (self.groups, self.pause) = (0, PAUSE);
            self.stretch = (self.stretch * 2).clamp(1, GROUPS_MAX);
        }
    }

    /// Another server's group was read; `None`: nobody knows whose.
    pub(super) fn they_wrote(&mut self, server: Option<ServerId>, now_ms: u64) {
        // Who a pause is made for has come.
        (self.pause, self.read_ms) = (0, now_ms);
        if self.owed.is_empty() {
            self.long = 0;
        }
        if let Some(server) = server {
            if self.owed.remove(&server) {
                self.patience = PATIENCE;
            }
            if self.wrote.len() < SERVERS_MAX {
                self.wrote.insert(server);
            }
        }
    }

    /// One look more. What it found is told next.
    pub(super) fn looked(&mut self) {
        self.pause = self.pause.saturating_sub(1);
        if self.owed.is_empty() {
            self.long = self.long.saturating_sub(1);
        }
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 {
            self.owed.clear();
        }
    }

    /// Somebody asks for a group after nobody did. If that was long after our last one, whoever waited for his turn has had it.
    pub(super) fn woken(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.wrote_ms) > LULL_MS {
            self.owed.clear();
            (self.pause, self.long, self.groups, self.stretch) = (0, 0, 0, 0);
        }
    }
}

/// In three looks a server as near as we are that has something to write sees our group and writes its own: it looks itself, which
/// takes as long as ours (one), then asks for the floor and creates its slot (another one), and one for chance. Twice as many for
/// those that are farther away, or make a pause.
pub(super) const PATIENCE: u32 = 6;
/// A pause of a busy server is this many looks: as long as it takes to lose a slot, to read what was in the way and to try the next.
/// One who is not busy looks once.
pub(super) const PAUSE: u32 = 2;
/// A long pause is for those who are farther away.
pub(super) const LONG_PAUSE: u32 = 6;
/// After so many groups a long pause is made in company, a pause else.
pub(super) const GROUPS_MAX: u32 = 16;
/// Who has read others' groups not longer ago is in company.
pub(super) const COMPANY_MS: u64 = 1_000;
/// After this long nobody is waiting for his turn any more.
pub(super) const LULL_MS: u64 = 500;
/// So many are known at most; who comes later is not waited for.
const SERVERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: ServerId = [7; 8];

    /// Looks in vain until it may write.
    fn looks(turns: &mut Turns) -> u32 {
        let mut looks = 0;
        while !turns.is_ours() {
            turns.looked();
            looks += 1;
        }
        looks
    }

    #[test]
    fn who_is_alone_makes_pauses_ever_more_seldom_and_none_when_it_is_not_busy() {
        let mut turns = Turns::default();
        for burst in [10_000, 20_000] {
            turns.woken(burst);
            for groups in [1, 1, 2, 4, 8, 16, 16] {
                for _ in 1..groups {
                    turns.we_wrote(true, burst);
                    assert_eq!(looks(&mut turns), 0);
                }
                turns.we_wrote(true, burst);
                assert_eq!(looks(&mut turns), PAUSE);
            }
        }
        turns.woken(30_000);
        for _ in 0..100 {
            turns.we_wrote(false, 30_000);
            assert_eq!(looks(&mut turns), 0);
        }
    }

    #[test]
    fn in_company_a_pause_follows_each_group_and_ends_when_somebody_writes_and_a_long_one_when_our_turn_has_come() {
        for (busy, pause) in [(true, PAUSE), (false, 1)] {
            let mut turns = Turns::default();
            turns.they_wrote(None, 10_000);
            for _ in 1..GROUPS_MAX - 1 {
                turns.we_wrote(busy, 10_500);
                assert_eq!(looks(&mut turns), pause);
            }
            turns.we_wrote(busy, 10_500);
            turns.looked();
            turns.they_wrote(Some(OTHER), 10_500);
            assert!(turns.is_ours());
            turns.we_wrote(busy, 10_500);
            turns.looked();
            turns.they_wrote(Some(OTHER), 10_500);
            assert_eq!(looks(&mut turns), LONG_PAUSE, "it begins when nobody is waited for any more");
            assert_eq!((turns.groups, turns.is_ours()), (0, true));
            turns.we_wrote(busy, 10_499 + COMPANY_MS);
            turns.owed.clear();
            assert_eq!(looks(&mut turns), pause);
            // He has not been seen for a while.
            turns.we_wrote(busy, 10_500 + COMPANY_MS);
            assert!(turns.pause == 0 || turns.groups == 0);
        }
    }

    #[test]
    fn a_newcomer_ends_a_long_pause() {
        let mut turns = Turns::default();
        turns.they_wrote(None, 10_000);
        (0..GROUPS_MAX).for_each(|_| turns.we_wrote(true, 10_000));
        turns.looked();
        assert!(turns.owed.is_empty() && !turns.is_ours());
        turns.they_wrote(Some(OTHER), 10_000);
        assert!(turns.is_ours());
    }

    #[test]
    fn others_who_write_and_are_not_waited_for_make_no_wait_longer() {
        let mut turns = Turns::default();
        turns.they_wrote(Some(OTHER), 10_000);
        turns.we_wrote(false, 10_000);
        let mut looks = 0;
        while !turns.is_ours() {
            turns.looked();
            [[8; 8], [9; 8]].into_iter().for_each(|server| turns.they_wrote(Some(server), 10_000));
            turns.they_wrote(None, 10_000);
            looks += 1;
        }
        assert_eq!(looks, PATIENCE);
    }

    #[test]
    fn who_wrote_between_our_last_groups_is_waited_for_until_he_writes_or_patience_ends_or_a_while_has_gone_by() {
        let mut turns = Turns::default();
        let mut again = |then: &dyn Fn(&mut Turns)| {
            turns.we_wrote(false, 10_000);
            turns.pause = 0;
            then(&mut turns);
            looks(&mut turns)
        };
        let he_writes = |turns: &mut Turns| turns.they_wrote(Some(OTHER), 9_000);
        assert_eq!(again(&he_writes), 0, "he was not there before");
        assert_eq!(again(&|_| {}), PATIENCE);
        assert_eq!(again(&he_writes), 0, "nobody waits for him twice in vain");
        assert_eq!(again(&he_writes), 0);
        assert_eq!(again(&|turns| turns.they_wrote(None, 9_000)), PATIENCE, "it was somebody else");
        he_writes(&mut turns);
        turns.we_wrote(false, 10_000);
        turns.woken(10_000 + LULL_MS);
        assert!(!turns.is_ours(), "he may still be on his way");
        turns.woken(10_001 + LULL_MS);
        assert!(turns.is_ours());
    }
}
