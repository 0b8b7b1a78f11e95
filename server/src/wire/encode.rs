//! msgpack out: the smallest form of every value, and how long it will be.
//!
//! Invariants: for every `x` here, `x_len` is exactly the number of bytes that `x` appends (an answer states its
//! Content-Length before a byte of it exists, and index rows keep lengths measured here: a change of form is a change of
//! stored facts).

/// Bytes of an id as str: two of header, 64 digits.
pub const ID_LEN: u64 = 66;

/// Appends nil.
pub fn nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends a real boolean.
pub fn boolean(out: &mut Vec<u8>, value: bool) {
    out.push(if value { 0xc3 } else { 0xc2 });
}

/// Appends an unsigned integer in its smallest form.
pub fn unsigned(out: &mut Vec<u8>, value: u64) {
    let wide = value.to_be_bytes();
    match value {
        0..=0x7f => out.push(wide[7]),
        0x80..=0xff => out.extend_from_slice(&[0xcc, wide[7]]),
        0x100..=0xffff => tagged(out, 0xcd, &wide[6..]),
        0x1_0000..=0xffff_ffff => tagged(out, 0xce, &wide[4..]),
        _ => tagged(out, 0xcf, &wide),
    }
}

/// Bytes of [`unsigned`].
pub fn unsigned_len(value: u64) -> u64 {
    match value {
        0..=0x7f => 1,
        0x80..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// Appends a signed integer in its smallest form.
pub fn signed(out: &mut Vec<u8>, value: i64) {
    if let Ok(value) = u64::try_from(value) {
        return unsigned(out, value);
    }
    let wide = value.to_be_bytes();
    match value {
        -0x20..=-1 => out.push(wide[7]),
        -0x80..=-0x21 => out.extend_from_slice(&[0xd0, wide[7]]),
        -0x8000..=-0x81 => tagged(out, 0xd1, &wide[6..]),
        -0x8000_0000..=-0x8001 => tagged(out, 0xd2, &wide[4..]),
        _ => tagged(out, 0xd3, &wide),
    }
}

/// Bytes of [`signed`].
pub fn signed_len(value: i64) -> u64 {
    match value {
        0.. => unsigned_len(value.unsigned_abs()),
        -0x20..=-1 => 1,
        -0x80..=-0x21 => 2,
        -0x8000..=-0x81 => 3,
        -0x8000_0000..=-0x8001 => 5,
        _ => 9,
    }
}

/// Appends a float, always of 64 bits.
pub fn float(out: &mut Vec<u8>, value: f64) {
    tagged(out, 0xcb, &value.to_bits().to_be_bytes());
}

/// Bytes of [`float`].
pub const FLOAT_LEN: u64 = 9;

/// Appends a str.
pub fn text(out: &mut Vec<u8>, value: &str) {
    text_header(out, len32(value.len()));
    out.extend_from_slice(value.as_bytes());
}

/// Bytes of [`text`] for a str of `len` bytes.
pub fn text_len(len: u64) -> u64 {
    len + match len {
        0..=31 => 1,
        32..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    }
}

/// Appends the header of a str of `len` bytes; the bytes follow.
pub fn text_header(out: &mut Vec<u8>, len: u32) {
    let wide = len.to_be_bytes();
    match len {
        0..=31 => out.push(0xa0 | wide[3]),
        32..=0xff => out.extend_from_slice(&[0xd9, wide[3]]),
        0x100..=0xffff => tagged(out, 0xda, &wide[2..]),
        _ => tagged(out, 0xdb, &wide),
    }
}

/// Appends an id: a str of 64 hex digits.
pub fn id(out: &mut Vec<u8>, id: &[u8; 32]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[0xd9, 64]);
    for byte in id {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

/// Appends the header of a bin of `len` bytes; the bytes follow.
pub fn bin_header(out: &mut Vec<u8>, len: u32) {
    let wide = len.to_be_bytes();
    match len {
        0..=0xff => out.extend_from_slice(&[0xc4, wide[3]]),
        0x100..=0xffff => tagged(out, 0xc5, &wide[2..]),
        _ => tagged(out, 0xc6, &wide),
    }
}

/// Bytes of a bin's header.
pub fn bin_header_len(len: u64) -> u64 {
    match len {
        0..=0xff => 2,
        0x100..=0xffff => 3,
        _ => 5,
    }
}

/// Appends the header of an array of `len` elements.
pub fn array_header(out: &mut Vec<u8>, len: u32) {
    container(out, len, 0x90, 0xdc);
}

/// Appends the header of a map of `len` pairs.
pub fn map_header(out: &mut Vec<u8>, len: u32) {
    container(out, len, 0x80, 0xde);
}

/// Bytes of the header of an array or map of `len` elements or pairs.
pub fn container_header_len(len: u64) -> u64 {
    match len {
        0..=15 => 1,
        16..=0xffff => 3,
        _ => 5,
    }
}

/// A length as msgpack counts it. Nothing here is built that does not fit: answers end at 64 MiB.
pub fn len32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn container(out: &mut Vec<u8>, len: u32, fixed: u8, wide16: u8) {
    let wide = len.to_be_bytes();
    match len {
        0..=15 => out.push(fixed | wide[3]),
        16..=0xffff => tagged(out, wide16, &wide[2..]),
        _ => tagged(out, wide16 + 1, &wide),
    }
}

fn tagged(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_possible_truncation)]
    use super::*;

    fn check_len(expected: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(out.len() as u64, expected, "{out:02x?}");
    }

    #[test]
    fn every_form_is_as_long_as_announced_on_both_sides_of_every_boundary() {
        for shift in [0, 5, 7, 8, 15, 16, 31, 32, 63] {
            for value in [(1u64 << shift).wrapping_sub(1), 1 << shift, (1 << shift) + 1, u64::MAX] {
                check_len(unsigned_len(value), |out| unsigned(out, value));
                let number = i64::from_ne_bytes(value.to_ne_bytes());
                let negative = number.wrapping_neg();
                check_len(signed_len(negative), |out| signed(out, negative));
                check_len(signed_len(number), |out| signed(out, number));
            }
        }
        for len in [0u32, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            check_len(container_header_len(len.into()), |out| array_header(out, len));
            check_len(container_header_len(len.into()), |out| map_header(out, len));
            check_len(bin_header_len(len.into()), |out| bin_header(out, len));
            check_len(text_len(len.into()) - u64::from(len), |out| text_header(out, len));
        }
        check_len(ID_LEN, |out| id(out, &[0xab; 32]));
        check_len(FLOAT_LEN, |out| float(out, -0.5));
    }

    #[test]
    fn integers_read_back_by_an_independent_reader() {
        for value in [0i64, 1, 127, 128, 255, 256, 65_536, i64::MAX, -1, -32, -33, -128, -129, -32_769, i64::MIN] {
            let mut out = Vec::new();
            signed(&mut out, value);
            assert_eq!(rmp_serde::from_slice::<i64>(&out).unwrap(), value);
        }
    }
}
