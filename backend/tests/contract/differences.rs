//! Where we answer differently from the Python service on purpose, case by case, and why.

use serde_json::{Value, json};

use crate::recording::{Answer, Case, Numbers};

/// What we answer instead.
enum Instead {
    /// 404 with the model's name.
    NotInstalled(&'static str),
    /// 422 `json_invalid`.
    NotJson,
    /// 404, as for any unknown path.
    NoSuchPage,
    /// 422, as where the texts are missing.
    NoTexts,
    /// The recorded answer, but for our engine's name and (if given) our list of loaded models.
    OwnEngine(Option<&'static [&'static str]>),
    /// A description of the same routes in our words.
    OwnDescription,
    /// 200 with this body.
    Served(fn() -> Value),
}

use Instead::{NoSuchPage, NoTexts, NotInstalled, NotJson, OwnDescription, OwnEngine, Served};

struct Difference {
    reason: &'static str,
    /// Names of cases, in whatever run.
    cases: &'static [&'static str],
    instead: Instead,
}

const NO_HUB: &str = "nothing is fetched from a hub, and a missing model is the client's to know";
const NO_PATHS: &str = "a request names a model, never a folder";
const SURROGATE: &str = "an unpaired surrogate is no text; the service answered 500 or worse";
const LITERAL: &str = "NaN and Infinity are no JSON (RFC 8259); the service mostly answered 500";
const BEARER: &str = "the key may come as a bearer token too";
const ENGINE: &str = "the engine is candle, not PyTorch";

const MINILM: &str = "all-MiniLM-L6-v2";
const DEBERTA: &str = "microsoft/deberta-xlarge-mnli";

const DIFFERENCES: &[Difference] = &[
    Difference {
        reason: NO_HUB,
        cases: &[
            "embed unknown model",
            "embed unknown model with empty texts",
        ],
        instead: NotInstalled("no/such-model"),
    },
    Difference {
        reason: NO_HUB,
        cases: &["bertscore known-to-bert_score but not on disk"],
        instead: NotInstalled("roberta-large"),
    },
    Difference {
        reason: NO_PATHS,
        cases: &["embed unknown model weird chars"],
        instead: NotInstalled("../../etc/passwd"),
    },
    Difference {
        reason: SURROGATE,
        cases: &[
            "embed lone high surrogate",
            "embed lone low surrogate",
            "embed lone surrogate in middle",
            "embed lone surrogate in 2nd",
            "embed lone surrogate in model",
            "embed lone surrogate in input of another error",
            "embed missing texts with surrogate extra",
            "bertscore surrogate cand",
        ],
        instead: NotJson,
    },
    Difference {
        reason: LITERAL,
        cases: &[
            "embed NaN literal",
            "embed Infinity literal",
            "embed NaN as extra in input echo",
            "embed Infinity as extra in input echo",
        ],
        instead: NotJson,
    },
    Difference {
        reason: "the API is described by /openapi.json alone; no page is fetched from elsewhere",
        cases: &["GET /docs key=right lower header"],
        instead: NoSuchPage,
    },
    Difference {
        reason: BEARER,
        cases: &["GET /nope key=bearer", "GET /docs key=bearer"],
        instead: NoSuchPage,
    },
    Difference {
        reason: BEARER,
        cases: &["POST /embed invalid key=bearer"],
        instead: NoTexts,
    },
    Difference {
        reason: "the description is ours",
        cases: &[
            "GET /openapi.json key=right",
            "GET /openapi.json key=right lower header",
        ],
        instead: OwnDescription,
    },
    Difference {
        reason: ENGINE,
        cases: &[
            "GET /info",
            "GET /info key=right",
            "GET /info key=right lower header",
            "info",
        ],
        instead: OwnEngine(None),
    },
    Difference {
        reason: "a request cannot load a model by its path (and the engine is candle)",
        cases: &["info after on-demand loads"],
        instead: OwnEngine(Some(&[
            "bertscore:microsoft/deberta-xlarge-mnli",
            "embed:all-MiniLM-L6-v2",
        ])),
    },
    Difference {
        reason: "a default that the operator sets is the default of requests too",
        cases: &["bertscore without model_type"],
        instead: Served(|| json!({"precision": [1.0], "recall": [1.0], "f1": [1.0]})),
    },
    Difference {
        reason: "idf is a field of ours; of a single reference every token's frequency weighs 0",
        cases: &["bertscore extra"],
        instead: Served(|| json!({"precision": [null], "recall": [null], "f1": [0.0]})),
    },
];

/// What our answers have besides what the service's have: path and key. Clients ignore what they
/// don't know.
const ADDITIONS: &[(&str, &str)] = &[
    ("/health", "ready"),
    ("/health", "models"),
    ("/info", "models"),
    ("/info", "available_models"),
    ("/info", "bertscore_batch_independent"),
    ("/info", "max_batch_size"),
];
/// Paths that the service does not have.
const OWN_PATHS: &[&str] = &["/ready", "/v1/embeddings", "/v1/models", "/v1/models/{id}"];

/// The answer as far as the service has the same; what is ours alone must be there.
fn without_additions(case: &Case, answer: &Answer) -> Result<Answer, String> {
    let mut answer = answer.clone();
    let path = case.request.path.split('?').next().unwrap_or_default();
    let ours = ADDITIONS.iter().filter(|(of, _)| *of == path);
    let keys: Vec<&str> = ours.map(|(_, key)| *key).collect();
    if answer.status != 200 || keys.is_empty() {
        return Ok(answer);
    }
    let mut body: serde_json::Map<String, Value> =
        serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    for key in keys {
        body.remove(key)
            .ok_or_else(|| format!("{key} is missing"))?;
    }
    answer.body = Value::from(body).to_string().into_bytes();
    Ok(answer)
}

/// What is wrong with `answer` to `case`, going by the recording and by our list.
/// `default_bertscore` is the model that answers where a request names none.
pub(crate) fn check(
    case: &Case,
    answer: &Answer,
    numbers: Numbers,
    default_bertscore: &str,
) -> Result<(), String> {
    let answer = &without_additions(case, answer)?;
    let of_case = |difference: &&Difference| difference.cases.contains(&case.name.as_str());
    // In the run without slots no request comes as far as its model.
    let found = DIFFERENCES
        .iter()
        .find(of_case)
        .filter(|_| case.response.status != 503);
    let Some(difference) = found else {
        return case.compare(answer, numbers);
    };
    verify(
        &difference.instead,
        case,
        answer,
        numbers,
        default_bertscore,
    )
    .map_err(|wrong| format!("{wrong} (we differ here: {})", difference.reason))
}

fn verify(
    instead: &Instead,
    case: &Case,
    answer: &Answer,
    numbers: Numbers,
    default_bertscore: &str,
) -> Result<(), String> {
    let body: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let mut case = case.clone();
    match instead {
        NotInstalled(name) => {
            let detail = body["detail"].as_str().unwrap_or_default().to_owned();
            let expected = format!("model '{name}' is not installed on this host; installed: ");
            let lists = |model| detail[expected.len()..].contains(model);
            if !(detail.starts_with(&expected) && lists(MINILM) && lists(DEBERTA)) {
                return Err(format!("detail is {detail:?}"));
            }
            case.response.replace(404, json!({ "detail": detail }));
        }
        NotJson => {
            let item = &body["detail"][0];
            if item["type"] != "json_invalid" || !item["loc"][1].is_u64() {
                return Err(format!("detail is {item}"));
            }
            case.response.replace(422, json!({ "detail": [item] }));
        }
        NoTexts => {
            let missing = json!({"type": "missing", "loc": ["body", "texts"], "msg": "Field required", "input": {}});
            case.response.replace(422, json!({ "detail": [missing] }));
        }
        NoSuchPage => case.response.replace(404, json!({"detail": "Not Found"})),
        OwnEngine(models) => {
            let mut info = case.response.json.take().unwrap_or_default();
            info["pytorch_version"] = json!("candle 0.11.1");
            if let Some(models) = models {
                info["loaded_models"] = json!(models);
            }
            case.response.replace(200, info);
        }
        OwnDescription => {
            let recorded = case.response.json.take().unwrap_or_default();
            let mut described = operations(&body);
            described.retain(|operation| !OWN_PATHS.iter().any(|own| operation.ends_with(own)));
            if described != operations(&recorded) {
                return Err(format!("it describes {described:?}"));
            }
            case.response.replace(200, body);
        }
        Served(expected) => {
            let mut expected = expected();
            expected["model"] = json!(default_bertscore);
            case.response.replace(200, expected);
        }
    }
    case.compare(answer, numbers)
}

/// Methods and paths that a description knows, with the fields of their answers.
fn operations(description: &Value) -> Vec<String> {
    let paths = description["paths"].as_object().into_iter().flatten();
    let methods = paths.flat_map(|(path, item)| {
        item.as_object()
            .into_iter()
            .flatten()
            .map(move |(method, _)| format!("{method} {path}"))
    });
    let mut operations: Vec<String> = methods.collect();
    operations.sort();
    operations
}
