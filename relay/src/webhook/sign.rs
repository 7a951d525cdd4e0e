//! Signatures of Standard Webhooks.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// As the specification has it.
const BYTES_MIN: usize = 24;
const BYTES_MAX: usize = 64;

/// What is signed with: one secret, or, while it is being changed, several.
pub struct Secrets(Vec<hmac::Key>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}

/// Why a text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is none.
    #[error("there is no secret in it")]
    None,
    /// It isn't `whsec_` and base64.
    #[error("a secret is `whsec_` and base64, one in a line")]
    Form,
    /// It is too short or too long.
    #[error("a secret has {BYTES_MIN} to {BYTES_MAX} bytes")]
    Length,
}

/// A new secret, as [`Secrets::parse`] takes it.
pub fn draw_secret() -> std::io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(format!("{PREFIX}{}", STANDARD.encode(bytes)))
}

impl Secrets {
    /// From a text with a secret in each line. The first one is the newest.
    pub fn parse(text: &str) -> Result<Secrets, SecretError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let keys = lines.map(|line| {
            let encoded = line.strip_prefix(PREFIX).ok_or(SecretError::Form)?;
            let bytes = STANDARD.decode(encoded).map_err(|_| SecretError::Form)?;
            if !(BYTES_MIN..=BYTES_MAX).contains(&bytes.len()) {
                return Err(SecretError::Length);
            }
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        });
        let keys: Vec<hmac::Key> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(SecretError::None) } else { Ok(Secrets(keys)) }
    }

    /// The header `webhook-signature`: one signature for each secret.
    pub fn sign(&self, id: &str, seconds: u64, body: &str) -> String {
        let signed = format!("{id}.{seconds}.{body}");
        let mut header = String::new();
        for key in &self.0 {
            let signature = STANDARD.encode(hmac::sign(key, signed.as_bytes()));
            let space = if header.is_empty() { "" } else { " " };
            let _ = write!(header, "{space}v1,{signature}"); // A string takes everything.
        }
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn a_known_signature() {
        let secrets = Secrets::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let body = r#"{"test": 2432232314}"#;
        let signature = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_are_checked() {
        assert_eq!(Secrets::parse(" \n").unwrap_err(), SecretError::None);
        assert_eq!(
            Secrets::parse("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap_err(),
            SecretError::Form
        );
        assert_eq!(Secrets::parse("whsec_?").unwrap_err(), SecretError::Form);
        assert_eq!(Secrets::parse("whsec_c2hvcnQ=").unwrap_err(), SecretError::Length);
        let two =
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx\n";
        assert!(Secrets::parse(&draw_secret().unwrap()).is_ok());
        assert_eq!(Secrets::parse(two).unwrap().sign("a", 1, "b").split(' ').count(), 2);
    }
}
