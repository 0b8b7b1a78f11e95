//! Fixed-width little-endian fields out of a byte slice: every read is checked, nothing is allocated from a length.

/// A cursor over stored bytes; each read answers `None` past the end.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// A cursor at the start of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes }
    }

    /// The next `count` bytes.
    pub(crate) fn slice(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    /// One byte.
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// Two bytes.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A position or the ordinal of a write; `None` for one that no log reaches, so that counting on from what is stored never
    /// overflows, whatever a file says.
    pub(crate) fn ordinal(&mut self) -> Option<u64> {
        self.u64().filter(|ordinal| *ordinal <= ORDINAL_MAX)
    }

    /// A text with a four-byte length before it.
    pub(crate) fn text(&mut self) -> Option<String> {
        let len = self.u32()?;
        String::from_utf8(self.slice(size(u64::from(len)))?.to_vec()).ok()
    }

    /// True when everything was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// A million events a second reach it after 140,000 years.
const ORDINAL_MAX: u64 = 1 << 62;

/// Appends a text with a four-byte length before it.
pub(crate) fn put_text(into: &mut Vec<u8>, text: &str) {
    into.extend_from_slice(&len32(text.len()).to_le_bytes());
    into.extend_from_slice(text.as_bytes());
}

/// A length in bytes that is known to fit into memory (it was compared with a limit or a file before).
pub(crate) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A length in memory as a stored four-byte length. Everything written here is far below 4 GiB (limits.rs).
pub(crate) fn len32(len: usize) -> u32 {
    let value = u32::try_from(len).unwrap_or(u32::MAX);
    assert!(value != u32::MAX, "a stored length fits four bytes");
    value
}
