//! Reading the platform's answers: only their outcomes.

use model::Outcome;
use model::record::CommandResult;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

use crate::client::ClientError;

/// Appends the outcome of every result in `{"results":[…]}` as its byte.
pub fn parse_results(answer: &[u8], outcomes: &mut Vec<u8>) -> Result<(), ClientError> {
    let mut json = sonic_rs::Deserializer::from_slice(answer);
    Results(outcomes).deserialize(&mut json).map_err(not_understood)
}

/// Appends the outcome of a single answer, or of a refusal's problem.
pub fn parse_single(answer: &[u8], outcomes: &mut Vec<u8>) -> Result<(), ClientError> {
    let mut json = sonic_rs::Deserializer::from_slice(answer);
    OneResult(outcomes).deserialize(&mut json).map_err(not_understood)
}

/// Appends the outcome of every result of commands that were sent as bytes.
pub fn parse_binary(answer: &[u8], outcomes: &mut Vec<u8>) -> Result<(), ClientError> {
    let results = CommandResult::read_all(answer)
        .ok_or_else(|| ClientError::Protocol(format!("{} bytes are no results", answer.len())))?;
    for result in results {
        if Outcome::from_byte(result.outcome).is_none() {
            return Err(ClientError::Protocol(format!("{} is no outcome", result.outcome)));
        }
        outcomes.push(result.outcome);
    }
    Ok(())
}

fn not_understood(error: sonic_rs::Error) -> ClientError {
    ClientError::Protocol(error.to_string().lines().next().unwrap_or_default().to_string())
}

struct Results<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Results<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Results<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("results")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "results" => map.next_value_seed(EachResult(&mut *self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct EachResult<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for EachResult<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for EachResult<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of results")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(OneResult(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

struct OneResult<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for OneResult<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneResult<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a result")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "outcome" => found = Outcome::from_word(map.next_value::<&str>()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let outcome = found.ok_or_else(|| A::Error::custom("a result without a known outcome"))?;
        self.0.push(outcome as u8);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_as_outcomes() {
        let answer = br#"{"results":[{"outcome":"ok","state":"paid","total":5},{"outcome":"sold_out","field":"lines[0]"}]}"#;
        let mut outcomes = Vec::new();
        parse_results(answer, &mut outcomes).unwrap();
        assert_eq!(outcomes, [Outcome::Ok as u8, Outcome::SoldOut as u8]);
        assert!(parse_results(br#"{"results":[{"state":"paid"}]}"#, &mut outcomes).is_err());
        outcomes.clear();
        let problem = br#"{"type":"x","status":409,"outcome":"insufficient_funds"}"#;
        parse_single(problem, &mut outcomes).unwrap();
        assert_eq!(outcomes, [Outcome::InsufficientFunds as u8]);
    }
}
