//! Flat JSON objects, taken apart where they lie: rows of our own bodies, and of the lists that
//! the platform answers. They hold integers, words and truth values, and strings without escapes.

/// Visits the members of the object at `at`: name, and value without its quotes. Returns where
/// the object ends, or `None` if it is another kind of text.
pub(crate) fn object<'a>(
    text: &'a [u8],
    mut at: usize,
    mut visit: impl FnMut(&'a [u8], &'a [u8]),
) -> Option<usize> {
    if *text.get(at)? != b'{' {
        return None;
    }
    at += 1;
    if *text.get(at)? == b'}' {
        return Some(at + 1);
    }
    loop {
        let (name, after) = string(text, at)?;
        if *text.get(after)? != b':' {
            return None;
        }
        let start = after + 1;
        let (value, after) = match *text.get(start)? {
            b'"' => string(text, start)?,
            _ => {
                let more = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
                let length = text[start..].iter().take_while(|byte| more(byte)).count();
                (&text[start..start + length], start + length)
            }
        };
        if value.is_empty() {
            return None;
        }
        visit(name, value);
        match *text.get(after)? {
            b',' => at = after + 1,
            b'}' => return Some(after + 1),
            _ => return None,
        }
    }
}

/// The string whose quote is at `at`, and where it ends.
fn string(text: &[u8], at: usize) -> Option<(&[u8], usize)> {
    if *text.get(at)? != b'"' {
        return None;
    }
    let start = at + 1;
    let length = text[start..].iter().position(|byte| *byte == b'"')?;
    let found = &text[start..start + length];
    (!found.contains(&b'\\')).then_some((found, start + length + 1))
}

/// Calls `row` at each object of `{"name":[…],"next":"…"}`; it says where the object ends. Returns
/// `next`, or `None` if the text isn't like that.
pub(crate) fn page<'a>(
    text: &'a [u8],
    name: &str,
    mut row: impl FnMut(usize) -> Option<usize>,
) -> Option<Option<&'a str>> {
    let rest = text.strip_prefix(b"{\"")?.strip_prefix(name.as_bytes())?.strip_prefix(b"\":[")?;
    let mut at = text.len() - rest.len();
    if *text.get(at)? == b']' {
        at += 1;
    } else {
        loop {
            at = row(at)?;
            let byte = *text.get(at)?;
            at += 1;
            match byte {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
    }
    match &text[at..] {
        b"}" => Some(None),
        rest => {
            let next = rest.strip_prefix(b",\"next\":\"")?.strip_suffix(b"\"}")?;
            Some(Some(std::str::from_utf8(next).ok()?))
        }
    }
}

/// An integer: digits alone.
pub(crate) fn integer(text: &[u8]) -> Option<u64> {
    // 19 digits always fit.
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    let mut value = 0u64;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(digit.into())?;
    }
    Some(value)
}

/// An integer that may have a minus sign.
pub(crate) fn signed(text: &[u8]) -> Option<i128> {
    match text.strip_prefix(b"-") {
        Some(digits) => integer(digits).map(|value| -i128::from(value)),
        None => integer(text).map(i128::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_taken_apart() {
        let text = br#"{"items":[{"a":1,"b":"GBP","c":true},{},{"d":"-7"}],"next":"3-7"}"#;
        let mut seen = Vec::new();
        let next = page(text, "items", |at| {
            object(text, at, |name, value| {
                seen.push(format!(
                    "{}={}",
                    String::from_utf8_lossy(name),
                    String::from_utf8_lossy(value)
                ));
            })
        });
        assert_eq!(next, Some(Some("3-7")));
        assert_eq!(seen, ["a=1", "b=GBP", "c=true", "d=-7"]);
        assert_eq!(page(br#"{"items":[]}"#, "items", |_| None), Some(None));
        for text in [
            r#"{"items":[{"a":1}"#,
            r#"{"items":[{"a":1}]"#,
            r#"{"items":[{"a":[1]}]}"#,
            r#"{"items":[{"a":"\"}]}"#,
            r#"{"accounts":[]}"#,
            r#"{"type":"urn:crest:problem:stopped"}"#,
        ] {
            let text = text.as_bytes();
            assert_eq!(page(text, "items", |at| object(text, at, |_, _| {})), None);
        }
    }

    #[test]
    fn integers_are_digits() {
        assert_eq!(integer(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(signed(b"-18446744073709551615"), Some(-i128::from(u64::MAX)));
        for text in ["", "-1", "+1", " 1", "1e3", "18446744073709551616", "99999999999999999999"] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }
}
