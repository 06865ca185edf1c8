//! What a host of this dialect finds wrong with a request: its servers differ in the form, and some in what their
//! statuses mean, so that only their words tell.

use serde_json::Value;

use super::shortened;

/// What such a host finds wrong with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaint {
    /// In its own words, cut short.
    pub message: String,
    /// It has no such model, whatever the status says.
    pub lacks_model: bool,
    /// There is more of something than it takes, whatever the status says.
    pub is_too_much: bool,
    /// It has failed, whatever the status says.
    pub has_failed: bool,
}

/// What OpenAI, and those who follow it, call that.
const USED_UP: [&str; 3] = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
];

/// What is said of a model that is none for embeddings, in lower case: by llama.cpp and vLLM; by infinity; by
/// `SGLang` and LM Studio.
const NOT_FOR_EMBEDDINGS: [&str; 4] = [
    "does not support embeddings",
    "does not support `embed`",
    "not appear to be an embedding model",
    "model is not embedding",
];
/// What llama.cpp says with a 500 of a text that is too long, by itself or through `LocalAI`.
const TOO_MUCH: [&str; 2] = ["too large to process", "exceeds the available context size"];
/// What Ollama says with a 400 when the process that computes fails, or computes nonsense.
const FAILED: [&str; 4] = [
    "do embedding request",
    "error reading embed response",
    "unexpected server status",
    "nan or inf",
];

impl Complaint {
    /// Reads the body of an error, in whichever of the forms that are in use.
    pub fn read(body: &[u8]) -> Self {
        let body = object(body);
        let (error, detail) = (&body["error"], &body["detail"]);
        let words = [
            &error["message"],
            error,
            &body["message"],
            &detail[0]["msg"],
            detail,
        ];
        let message = words.into_iter().find_map(Value::as_str);
        let message = message.unwrap_or("the host does not say why").to_owned();
        let lower = message.to_lowercase();
        let says = |words: &&str| lower.contains(words);
        let is_missing = ["not found", "does not exist", "is not loaded"]
            .iter()
            .any(says);
        Self {
            lacks_model: error["code"] == "model_not_found"
                || says(&"invalid model")
                || NOT_FOR_EMBEDDINGS.iter().any(says)
                || (lower.trim_start_matches("the ").starts_with("model") && is_missing),
            is_too_much: TOO_MUCH.iter().any(says),
            has_failed: FAILED.iter().any(says),
            message: shortened(&message),
        }
    }

    /// Does such a body say that the account of the key has used up what it may? That does not pass, as being full
    /// does.
    pub fn is_of_used_up_account(body: &[u8]) -> bool {
        let error = &object(body)["error"];
        (USED_UP.iter()).any(|it| error["code"] == *it || error["type"] == *it)
    }

    /// The body of an error of `/embed`.
    pub fn detail(&self) -> Vec<u8> {
        format!(r#"{{"detail":{}}}"#, Value::from(self.message.as_str())).into_bytes()
    }
}

fn object(body: &[u8]) -> Value {
    let mut body: Value = serde_json::from_slice(body).unwrap_or_default();
    // Google's comes in a list.
    body.get_mut(0).map(Value::take).unwrap_or(body)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::SHOWN;
    use super::*;

    #[test]
    fn complaints_are_read_in_every_form() {
        let table = [
            // vLLM, llama.cpp, OpenAI; older vLLM and SGLang; TEI; Ollama; FastAPI; nobody.
            (
                r#"{"error":{"message":"m","type":"t","param":null,"code":400}}"#,
                "m",
            ),
            (
                r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
                "m",
            ),
            (r#"{"message":"m","code":413,"type":"Validation"}"#, "m"),
            (r#"{"error":"m","error_type":"Validation"}"#, "m"),
            (r#"{"detail":"m"}"#, "m"),
            (
                r#"{"detail":[{"loc":["body"],"msg":"m","input":"a text"}]}"#,
                "m",
            ),
            (r#"[{"error":{"code":400,"message":"m"}}]"#, "m"),
            (r#"{"detail":[]}"#, "the host does not say why"),
            ("[]", "the host does not say why"),
            ("<html>", "the host does not say why"),
            ("7", "the host does not say why"),
        ];
        for (body, message) in table {
            let found = Complaint::read(body.as_bytes());
            assert_eq!(found.message, message, "{body}");
            let knows_more = found.lacks_model || found.is_too_much || found.has_failed;
            assert!(!knows_more, "{body}");
        }
        let long = json!({"error": {"message": "é\"".repeat(5000)}}).to_string();
        let detail: Value =
            serde_json::from_slice(&Complaint::read(long.as_bytes()).detail()).unwrap();
        assert_eq!(detail["detail"].as_str().unwrap().chars().count(), SHOWN);
    }

    #[test]
    fn what_the_status_does_not_say_is_known_by_its_words() {
        let of = |message: &str| {
            let told = json!({"error": {"message": message}}).to_string();
            let told = Complaint::read(told.as_bytes());
            (told.lacks_model, told.is_too_much, told.has_failed)
        };
        let table = [
            (
                (true, false, false),
                &[
                    "The model `x` does not exist. Valid aliases: a, b.",
                    "model \"x\" not found, try pulling it first",
                    "model 'x' not found",
                    "model is not loaded",
                    "Invalid model: Engine for model name `x` not found. Available model names are ['a', 'b']",
                    "/embeddings: Invalid model name passed in model=x. Call `/v1/models` to view available models.",
                    "This server does not support embeddings. Start it with `--embeddings`",
                    "The model does not support Embeddings API",
                    "ModelNotDeployedError: model=`x` does not support `embed` for modality `text`. Reason: no",
                    "This model does not appear to be an embedding model by default. Please add `--is-embedding`",
                    "Failed to load model \"x\". Error: Model is not embedding.",
                ][..],
            ),
            (
                (false, true, false),
                &[
                    "input (700 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
                    "rpc error: code = Unknown desc = request (700 tokens) exceeds the available context size (512 tokens)",
                ],
            ),
            (
                (false, false, true),
                &[
                    "do embedding request: Post \"http://127.0.0.1:1/v1/embeddings\": EOF",
                    "embedding contains NaN or Inf values",
                ],
            ),
            (
                (false, false, false),
                &[
                    "This model's maximum context length is 512 tokens. However, your prompt contains at least 513 input \
                     tokens, which exceeds this limit even without any output tokens.",
                    "batch size 100 > maximum allowed batch size 32",
                    "`inputs` must have less than 512 tokens. Given: 900",
                    "Model 'embed' does not support Matryoshka embeddings; dimensions must be unset",
                    "`inputs` cannot be empty",
                    "the input length exceeds the context length",
                ],
            ),
        ];
        for (expected, messages) in table {
            for message in messages {
                assert_eq!(of(message), expected, "{message}");
            }
        }
        let told = Complaint::read(br#"{"error":{"message":"no","code":"model_not_found"}}"#);
        assert!(told.lacks_model);
        let words = "You exceeded your current quota, please check your plan and billing details.";
        for (error, is_used_up) in [
            (
                json!({"message": words, "type": "insufficient_quota", "code": "insufficient_quota"}),
                true,
            ),
            (
                json!({"message": words, "type": "insufficient_quota", "code": null}),
                true,
            ),
            // As Google says it each time that it is asked too often.
            (
                json!({"message": words, "code": 429, "status": "RESOURCE_EXHAUSTED"}),
                false,
            ),
            (
                json!({"message": "slower", "type": "requests", "code": "rate_limit_exceeded"}),
                false,
            ),
        ] {
            let body = json!({ "error": error }).to_string();
            assert_eq!(
                Complaint::is_of_used_up_account(body.as_bytes()),
                is_used_up,
                "{body}"
            );
        }
    }
}
