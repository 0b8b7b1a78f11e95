//! Known bugs that a test can plant, to prove that the fault tests would find them (FAULTS.md, T9).
//!
//! Invariants: without the feature `planted-bugs` nothing can be planted and [`is`] is a constant `false` that costs
//! nothing; a planted bug lasts as long as its guard; only one test of a process has the turn, and it takes it before its
//! healthy half, which would otherwise run with another test's bug.

/// A bug of the kinds that storage systems ship with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PlantedBug {
    /// The directory is not synced after a segment was created or renamed.
    SkipDirectorySync = 0,
    /// A proposal is acknowledged before its frame is synced.
    AckBeforeSync = 1,
    /// Recovery does not check that a frame continues the chain of the frame before it.
    WrongChainCheck = 2,
    /// The projections' checkpoint is written outside the batch of its rows.
    CheckpointOutsideBatch = 3,
    /// A failed sync is tried again and its second answer believed.
    RetriedFsync = 4,
    /// An accepted append is given up when its caller goes away.
    DropOnCancel = 5,
    /// A push gets rows only for objects that no repository of the hub had.
    RowsOnlyForObjectsNewToHub = 6,
    /// The fold of an objects event writes no `object_refs`.
    FoldForgetsObjectRefs = 7,
    /// Recovery shows a tail to readers before it made it durable.
    RecoveryExposesUnsyncedTail = 8,
    /// Recovery takes damage in the middle for a torn tail and cuts what follows.
    DamageTakenForTear = 9,
    /// A pack's event is appended before the pack is durable.
    EventBeforePack = 10,
    /// Bucket log: after a slot was won nobody looks whether its ordinal was sealed long ago.
    FloorNotRead = 11,
    /// Bucket log: a slot that was not created is lost, without reading whose it is.
    ConflictTakenForLoss = 12,
    /// Bucket log: a group whose slot got no answer is refused.
    SilenceTakenForRefusal = 13,
    /// Bucket log: slots are deleted before their segment is there.
    SlotsGoBeforeSegment = 14,
    /// Bucket log: a group is acknowledged before its slot is there.
    AckBeforeSlot = 15,
    /// Bucket log: a proposal is refused on the state that is known here, without a look.
    StaleRefusal = 16,
    /// Bucket log: a reader believes slots without looking whether they were sealed meanwhile.
    SlotsBelieved = 17,
}

/// True while `bug` is planted.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is(_bug: PlantedBug) -> bool {
    false
}

#[cfg(feature = "planted-bugs")]
pub use planting::{Planted, Turn, is, turn};

#[cfg(feature = "planted-bugs")]
mod planting {
    use std::sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use super::PlantedBug;

    // One set per process: the bug must reach the writer's thread, and turns keep tests apart.
    static PLANTED: AtomicU32 = AtomicU32::new(0);
    static TURN: Mutex<()> = Mutex::new(());

    /// True while `bug` is planted.
    pub fn is(bug: PlantedBug) -> bool {
        PLANTED.load(SeqCst) & bit(bug) != 0
    }

    /// Waits until no other test of the process has the turn; until the guard is dropped nobody else plants.
    #[must_use = "another test plants when the turn is dropped"]
    pub fn turn() -> Turn {
        Turn { _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// The right to plant. Take it before whatever must run without a bug.
    pub struct Turn {
        _turn: MutexGuard<'static, ()>,
    }

    impl Turn {
        /// Plants `bug` for the whole process until the guard is dropped.
        #[must_use = "the bug is gone when the guard is dropped"]
        pub fn plant(&self, bug: PlantedBug) -> Planted<'_> {
            PLANTED.store(bit(bug), SeqCst);
            Planted { _turn: self }
        }
    }

    /// Keeps a bug planted.
    pub struct Planted<'a> {
        _turn: &'a Turn,
    }

    impl Drop for Planted<'_> {
        fn drop(&mut self) {
            PLANTED.store(0, SeqCst);
        }
    }

    fn bit(bug: PlantedBug) -> u32 {
        1 << (bug as u8)
    }
}
