//! Taking turns in a log that several servers write: who may write next, as one server sees it.
//!
//! Invariants: courtesy only, nothing is decided on it that must be right; no clock and no message, only who wrote which group
//! and how many looks found nothing; whoever has something to write waits for at most [`PATIENCE`] looks in vain, and then writes.
//!
//! The winner of an ordinal could go on at once, while the others must first read what he wrote: they come too late for the next one
//! too, again and again. So after a group of its own a server lets everyone have a group who had one between its last two. Once
//! they know each other they write in a circle, each as much as came to it meanwhile. Who is new is not waited for: he tries
//! until he meets a moment when nobody writes. Such a moment comes at a switch of turns by chance; and on purpose when a server makes
//! a pause, which it does soon after it began, and ever more seldom later.

use std::collections::BTreeSet;

use crate::log::slot::ServerId;

/// What a server knows of the others' turns.
#[derive(Default)]
pub(super) struct Turns {
    /// They wrote between our last two groups, and nothing since.
    owed: BTreeSet<ServerId>,
    /// They wrote since our last group.
    wrote: BTreeSet<ServerId>,
    /// Looks that may still find nothing before those who are owed are thought to want nothing.
    patience: u32,
    /// Looks of a pause that are still to come.
    pause: u32,
    /// Weights of our groups until the next pause,
    until_pause: u32,
    /// and between it and the one after it.
    stretch: u32,
    /// When our last group was decided.
    wrote_ms: u64,
}

impl Turns {
    /// We may write.
    pub(super) fn is_ours(&self) -> bool {
        self.pause == 0 && self.owed.is_empty()
    }

    /// A group of ours was written. `busy`: several had asked for it, or others waited behind it.
    pub(super) fn we_wrote(&mut self, busy: bool, now_ms: u64) {
        self.owed = std::mem::take(&mut self.wrote);
        (self.patience, self.wrote_ms) = (PATIENCE, now_ms);
        let (weight, pause) = if busy { (BUSY_WEIGHT, PAUSE) } else { (1, 1) };
        self.until_pause = self.until_pause.saturating_sub(weight);
        if self.until_pause == 0 {
            self.pause = pause;
            self.stretch = (self.stretch * 2).min(STRETCH_MAX);
            self.until_pause = self.stretch;
        }
    }

    /// Another server's group was read; `None`: nobody knows whose.
    pub(super) fn they_wrote(&mut self, server: Option<ServerId>) {
        self.patience = PATIENCE;
        if let Some(server) = server {
            self.owed.remove(&server);
            if self.wrote.len() < SERVERS_MAX {
                self.wrote.insert(server);
            }
        }
    }

    /// A look found nothing.
    pub(super) fn nobody_wrote(&mut self) {
        self.pause = self.pause.saturating_sub(1);
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 {
            self.owed.clear();
        }
    }

    /// Somebody asks for a group after nobody did. If that was long after our last one, whoever waited for his turn has had it.
    pub(super) fn woken(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.wrote_ms) > LULL_MS {
            self.owed.clear();
            self.pause = 0;
            (self.until_pause, self.stretch) = (BUSY_WEIGHT, BUSY_WEIGHT);
        }
    }
}

/// In this many looks a server that has something to write sees our group and writes its own: it looks itself, which takes as long
/// as ours (one), then asks for the floor and creates its slot (another one); one more for those that are a little slower.
pub(super) const PATIENCE: u32 = 3;
/// A pause of a busy server is this many looks: as long as it takes to lose a slot, to read what was in the way and to try the next.
/// One who is not busy looks once; he is slower than that anyway.
pub(super) const PAUSE: u32 = 2;
/// What a group counts that several asked for, or that others waited behind, where another one counts one.
pub(super) const BUSY_WEIGHT: u32 = 16;
/// So much is written between two pauses at most. At first it is one group of a busy server, then always twice as much.
pub(super) const STRETCH_MAX: u32 = 256;
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
            turns.nobody_wrote();
            looks += 1;
        }
        looks
    }

    #[test]
    fn who_is_alone_makes_pauses_ever_more_seldom_and_short_ones_when_it_is_not_busy() {
        for (busy, groups, pause) in
            [(true, [1, 2, 4, 8, 16, 16, 16], PAUSE), (false, [16, 32, 64, 128, 256, 256, 256], 1)]
        {
            let mut turns = Turns::default();
            for burst in [10_000, 20_000] {
                turns.woken(burst);
                for groups in groups {
                    for _ in 1..groups {
                        turns.we_wrote(busy, burst);
                        assert_eq!(looks(&mut turns), 0);
                    }
                    turns.we_wrote(busy, burst);
                    assert_eq!(looks(&mut turns), pause);
                }
            }
        }
    }

    #[test]
    fn who_wrote_between_our_last_groups_is_waited_for_until_he_writes_or_patience_ends_or_a_while_has_gone_by() {
        let mut turns = Turns::default();
        turns.woken(10_000);
        let mut again = |then: &dyn Fn(&mut Turns)| {
            turns.we_wrote(false, 10_000);
            turns.pause = 0;
            then(&mut turns);
            looks(&mut turns)
        };
        assert_eq!(again(&|turns| turns.they_wrote(Some(OTHER))), 0, "he was not there before");
        assert_eq!(again(&|_| {}), PATIENCE);
        assert_eq!(again(&|turns| turns.they_wrote(Some(OTHER))), 0, "nobody waits for him twice in vain");
        assert_eq!(again(&|turns| turns.they_wrote(Some(OTHER))), 0);
        assert_eq!(again(&|turns| turns.they_wrote(None)), PATIENCE, "it was somebody else");
        turns.they_wrote(Some(OTHER));
        turns.we_wrote(false, 10_000);
        turns.pause = 0;
        turns.woken(10_000 + LULL_MS);
        assert!(!turns.is_ours(), "he may still be on his way");
        turns.woken(10_001 + LULL_MS);
        assert!(turns.is_ours());
    }
}
