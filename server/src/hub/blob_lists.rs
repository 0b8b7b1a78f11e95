//! Blob lists of snapshots that one push looks at again and again, bounded.
//!
//! Invariants: holds at most `LISTED_IDS_MAX` ids (or one list, if a single one is larger); the least recently used list
//! goes first; what it returns is what was put in.

use std::{collections::VecDeque, sync::Arc};

use reprise_engine::id::ObjectId;

/// Ascending, distinct blob ids of recently used snapshots.
#[derive(Default)]
pub struct BlobLists {
    recent: VecDeque<(ObjectId, Arc<[ObjectId]>)>,
    ids: usize,
}

impl BlobLists {
    /// The list of `snapshot`, if it is still here.
    pub fn get(&mut self, snapshot: ObjectId) -> Option<Arc<[ObjectId]>> {
        let index = self.recent.iter().position(|(id, _)| *id == snapshot)?;
        let entry = self.recent.remove(index)?;
        let list = Arc::clone(&entry.1);
        self.recent.push_front(entry);
        Some(list)
    }

    /// Keeps a list.
    pub fn put(&mut self, snapshot: ObjectId, list: Arc<[ObjectId]>) {
        self.ids += list.len();
        self.recent.push_front((snapshot, list));
        while self.recent.len() > 1 && (self.ids > LISTED_IDS_MAX || self.recent.len() > LISTS_MAX) {
            if let Some((_, list)) = self.recent.pop_back() {
                self.ids -= list.len();
            }
        }
    }
}

/// Those of `ids` that are not in `others`; both ascending and distinct.
pub fn difference(ids: &[ObjectId], others: &[ObjectId]) -> Vec<ObjectId> {
    let mut others = others.iter().peekable();
    let mut only = Vec::new();
    for id in ids {
        while others.next_if(|other| *other < id).is_some() {}
        if others.peek() != Some(&id) {
            only.push(*id);
        }
    }
    only
}

/// 16 MiB of ids.
const LISTED_IDS_MAX: usize = 1 << 19;
/// Beyond this a linear look-up would cost more than it saves.
const LISTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(bytes: &[u8]) -> Vec<ObjectId> {
        bytes.iter().map(|byte| ObjectId([*byte; 32])).collect()
    }

    #[test]
    fn a_difference_is_what_the_other_list_lacks() {
        assert_eq!(difference(&ids(&[1, 3, 5, 9]), &ids(&[0, 3, 4, 9])), ids(&[1, 5]));
        assert_eq!(difference(&ids(&[1, 2]), &[]), ids(&[1, 2]));
        assert_eq!(difference(&[], &ids(&[1])), ids(&[]));
    }

    #[test]
    fn the_least_recently_used_list_goes_first() {
        let mut lists = BlobLists::default();
        let big: Arc<[ObjectId]> = vec![ObjectId([0; 32]); LISTED_IDS_MAX / 2].into();
        for byte in [1, 2] {
            lists.put(ObjectId([byte; 32]), Arc::clone(&big));
        }
        assert!(lists.get(ObjectId([1; 32])).is_some());
        lists.put(ObjectId([3; 32]), big);
        assert!(lists.get(ObjectId([2; 32])).is_none());
        assert!(lists.get(ObjectId([1; 32])).is_some());
    }
}
