"""Files in the shapes of other programs, made after their documentation; all texts are our own.

Rasa: "NLU Training Data".  Dialogflow ES and CX: "Export and import agents" and the shape of
exported archives.  Amazon Lex: "Import and export format" of V1 and V2.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Counts = dict[str, int]
"""Utterances by route."""


def archive(files: Mapping[str, Any]) -> bytes:
    """A ZIP archive of texts and JSON documents."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content if isinstance(content, str) else json.dumps(content))
    return output.getvalue()


RASA = """\
version: "3.1"

nlu:
- intent: greet
  examples: |
    - hey there
    - good morning
    - hello
- intent: book_trip
  metadata:
    sentiment: neutral
  examples:
  - text: |
      - take me to [Berlin](city) tomorrow
  - text: |
      - a ticket from [Rome]{"entity": "city", "role": "from"} to [Oslo](city:oslo), please
    metadata:
      sentiment: happy
- intent: faq/opening hours
  examples: |
    - when are you open
    - are you open on [Sundays](day)?
- synonym: berlin
  examples: |
    - BER
- regex: order_number
  examples: |
    - \\b\\d{8}\\b
- lookup: city
  examples: |
    - Berlin

rules:
- rule: say hello
  steps:
  - intent: greet
  - action: utter_greet
"""
RASA_COUNTS: Counts = {"greet": 3, "book_trip": 2, "faq_opening hours": 2}

STORIES = 'version: "3.1"\nstories:\n- story: hello\n  steps:\n  - intent: greet\n'
DOMAIN = 'version: "3.1"\nintents:\n- greet\nresponses:\n  utter_greet:\n  - text: hey\n'


def _es_intent(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": "1f6f1c2e-0000-4000-8000-000000000001",
        "name": name,
        "auto": True,
        "contexts": [],
        "responses": [{"resetContexts": False, "action": f"do.{name}", "parameters": []}],
        "priority": 500_000,
        "webhookUsed": False,
        "fallbackIntent": False,
        "events": [],
        **fields,
    }


def _es_phrase(*parts: str, **fields: Any) -> dict[str, Any]:
    data = [
        {"text": part, "userDefined": bool(at % 2), **({"meta": "@sys.date"} if at % 2 else {})}
        for at, part in enumerate(parts)
    ]
    return {
        "id": "1f6f1c2e-0000-4000-8000-000000000002",
        "data": data,
        "isTemplate": False,
        "count": 0,
        "lang": "en",
        "updated": 1_700_000_000,
        **fields,
    }


DIALOGFLOW_ES: dict[str, Any] = {
    "package.json": {"version": "1.0.0"},
    "agent.json": {"description": "", "language": "en", "supportedLanguages": ["de"]},
    "intents/pay.bill.json": _es_intent("pay.bill"),
    "intents/pay.bill_usersays_en.json": [
        _es_phrase("pay my bill"),
        _es_phrase("pay it ", "tomorrow", " please"),
        _es_phrase("pay @sys.date:date", isTemplate=True),
    ],
    "intents/pay.bill_usersays_de.json": [_es_phrase("Rechnung bezahlen")],
    "intents/Hello & Welcome.json": _es_intent("Hello & Welcome"),
    "intents/Hello & Welcome_usersays_en.json": [_es_phrase("hello"), _es_phrase("hi there")],
    "intents/Default Fallback Intent.json": _es_intent(
        "Default Fallback Intent", fallbackIntent=True
    ),
    "intents/Event only.json": _es_intent("Event only"),
    "entities/city.json": {"name": "city", "isOverridable": True},
    "entities/city_entries_en.json": [{"value": "Berlin", "synonyms": ["BER"]}],
}
DIALOGFLOW_ES_COUNTS: Counts = {"pay.bill": 3, "Hello _ Welcome": 2}


def _cx_phrases(language: str, *texts: list[str]) -> dict[str, Any]:
    return {
        "trainingPhrases": [
            {
                "id": f"phrase-{at}",
                "parts": [
                    {"text": part, "auto": True, **({"parameterId": "day"} if place % 2 else {})}
                    for place, part in enumerate(parts)
                ],
                "repeatCount": 1,
                "languageCode": language,
            }
            for at, parts in enumerate(texts)
        ]
    }


def _cx_intent(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": "2f6f1c2e-0000-4000-8000-000000000003",
        "displayName": name,
        "priority": 500_000,
        "numTrainingPhrases": 2,
        **fields,
    }


DIALOGFLOW_CX: dict[str, Any] = {
    "agent.json": {"displayName": "shop", "defaultLanguageCode": "en", "timeZone": "Europe/Rome"},
    "flows/Default Start Flow/Default Start Flow.json": {"displayName": "Default Start Flow"},
    "intents/store.hours/store.hours.json": _cx_intent("store.hours", description="Opening hours"),
    "intents/store.hours/trainingPhrases/en.json": _cx_phrases(
        "en", ["when do you open on ", "Monday", "?"], ["opening hours"]
    ),
    "intents/store.hours/trainingPhrases/ja.json": _cx_phrases("ja", ["営業時間は"]),
    "intents/返品/返品.json": _cx_intent("返品"),
    "intents/返品/trainingPhrases/ja.json": _cx_phrases("ja", ["返品したい"], ["商品を返す"]),
    "intents/Default Negative Intent/Default Negative Intent.json": _cx_intent(
        "Default Negative Intent", isFallback=True
    ),
    "intents/Default Negative Intent/trainingPhrases/en.json": _cx_phrases("en", ["lala"]),
}
DIALOGFLOW_CX_COUNTS: Counts = {"store.hours": 3, "返品": 2}

LEX_V1: dict[str, Any] = {
    "metadata": {"schemaVersion": "1.0", "importType": "LEX", "importFormat": "JSON"},
    "resource": {
        "name": "FlowerBot",
        "version": "1",
        "intents": [
            {
                "name": "OrderFlowers",
                "version": "3",
                "fulfillmentActivity": {"type": "ReturnIntent"},
                "sampleUtterances": ["I want {FlowerType}", "order flowers", "{PickupDate}"],
                "slots": [
                    {
                        "name": "FlowerType",
                        "slotType": "FlowerTypes",
                        "slotConstraint": "Required",
                        "sampleUtterances": [],
                    },
                    {"name": "PickupDate", "slotType": "AMAZON.DATE", "sampleUtterances": []},
                ],
            },
            {"name": "Fallback", "parentIntentSignature": "AMAZON.FallbackIntent"},
            {
                "name": "CancelOrder",
                "description": "Cancel what was ordered",
                "sampleUtterances": ["cancel my order", "forget it"],
                "slots": [],
            },
        ],
        "slotTypes": [
            {"name": "FlowerTypes", "enumerationValues": [{"value": "tulips", "synonyms": []}]}
        ],
        "locale": "en-US",
        "childDirected": False,
    },
}
LEX_V1_COUNTS: Counts = {"OrderFlowers": 2, "CancelOrder": 2}

_LOCALES = "HotelBot/BotLocales"
LEX_V2: dict[str, Any] = {
    "Manifest.json": {
        "metaData": {"schemaVersion": "1.0", "fileFormat": "LexJson", "resourceType": "BOT"}
    },
    "HotelBot/Bot.json": {"name": "HotelBot", "version": "DRAFT"},
    f"{_LOCALES}/en_US/BotLocale.json": {"name": "English (US)", "identifier": "en_US"},
    f"{_LOCALES}/en_US/Intents/BookHotel/Intent.json": {
        "name": "BookHotel",
        "identifier": "A1B2C3D4E5",
        "parentIntentSignature": None,
        "description": "Book a room",
        "sampleUtterances": [
            {"utterance": "book a room in {City}"},
            {"utterance": "I need a hotel for {Nights} nights"},
        ],
        "slotPriorities": [{"priority": 1, "slotName": "City"}],
    },
    f"{_LOCALES}/en_US/Intents/BookHotel/Slots/City/Slot.json": {
        "name": "City",
        "slotTypeName": "Cities",
    },
    f"{_LOCALES}/en_US/SlotTypes/Cities/SlotType.json": {
        "name": "Cities",
        "slotTypeValues": [{"sampleValue": {"value": "Lisbon"}, "synonyms": []}],
    },
    f"{_LOCALES}/en_US/Intents/FallbackIntent/Intent.json": {
        "name": "FallbackIntent",
        "parentIntentSignature": "AMAZON.FallbackIntent",
    },
    f"{_LOCALES}/es_ES/BotLocale.json": {"name": "Spanish (ES)", "identifier": "es_ES"},
    f"{_LOCALES}/es_ES/Intents/BookHotel/Intent.json": {
        "name": "BookHotel",
        "sampleUtterances": [{"utterance": "quiero una habitación"}],
    },
    f"{_LOCALES}/es_ES/Intents/Pagar/Intent.json": {
        "name": "Pagar",
        "sampleUtterances": [{"utterance": "quiero pagar"}, {"utterance": "la cuenta, por favor"}],
    },
}
LEX_V2_COUNTS: Counts = {"BookHotel": 3, "Pagar": 2}

SEMANTIC_ROUTER_1 = """\
router_type: chain
confidence_threshold: null
calibrator: null
routers:
- router_type: indexed
  encoder:
    type: openai
    name: text-embedding-3-small
  sparse_encoder: null
  alpha: 0.7
  top_k: 5
  aggregation: mean
  index:
    type: local
  confidence_threshold: 0.3
  calibrator:
    method: platt
    params:
      a:
      - 3.0
      b:
      - -1.0
  refresh_interval: null
  routes:
  - name: greeting
    utterances:
    - hi there
    - good morning
    description: null
    confidence_threshold: 0.42
    metadata: {}
- router_type: decision
  model:
    type: systemone
    name: support
  instructions: Which route?
  confidence_threshold: null
  calibrator: null
  routes:
  - name: greeting
    utterances:
    - welcome back
    description: Small talk
    confidence_threshold: null
    metadata: {}
  - name: billing
    utterances: []
    description: Invoices and refunds
    confidence_threshold: null
    metadata: {}
"""
SEMANTIC_ROUTER_0 = {
    "encoder_type": "openai",
    "encoder_name": "text-embedding-3-small",
    "routes": [
        {
            "name": name,
            "utterances": utterances,
            "description": None,
            "function_schemas": None,
            "llm": None,
            "score_threshold": 0.5,
            "metadata": {},
        }
        for name, utterances in (("退款", ["我要退款", "请把钱退给我"]), ("物流", ["快递到哪了"]))
    ],
}
LITELLM = {
    "model_list": [
        {"model_name": "gpt-4o", "litellm_params": {"model": "openai/gpt-4o"}},
        {
            "model_name": "auto",
            "litellm_params": {
                "model": "auto_router/auto",
                "auto_router_config": json.dumps(SEMANTIC_ROUTER_0),
                "auto_router_default_model": "gpt-4o",
            },
        },
    ]
}
REDISVL = """\
name: topics
routes:
- name: прощание
  references:
  - пока
  - до свидания
  metadata: {}
  distance_threshold: 0.5
vectorizer:
  type: hf
  model: sentence-transformers/all-mpnet-base-v2
routing_config:
  max_k: 1
  aggregation_method: avg
"""
OPENAI_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the weather of a city. Celsius.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
            "strict": True,
        },
    },
    {"type": "web_search"},
]
MCP_TOOLS = {
    "jsonrpc": "2.0",
    "id": 1,
    "result": {
        "tools": [
            {
                "name": "createTicket",
                "title": "Create a ticket",
                "description": "Open a new ticket.\n\nNeeds a title.",
                "inputSchema": {"type": "object"},
                "annotations": {"readOnlyHint": False},
            }
        ]
    },
}
OPENAPI = """\
openapi: 3.1.0
info: {title: shop, version: "1"}
paths:
  /orders/{id}:
    parameters:
    - {name: id, in: path, required: true, schema: {type: string}}
    get:
      operationId: getOrder
      summary: Show an order
      description: Shows an order. With all its parts.
      responses: {"200": {description: fine}}
    delete:
      summary: Cancel an order
      responses: {"204": {description: gone}}
    put:
      deprecated: true
      responses: {"200": {description: fine}}
"""

FOREIGN_FILES: dict[str, tuple[str, Any, Counts]] = {
    "router.yaml": ("semantic-router", SEMANTIC_ROUTER_1, {"greeting": 3, "billing": 1}),
    "router.json": ("semantic-router", SEMANTIC_ROUTER_0, {"退款": 2, "物流": 1}),
    "topics.yaml": ("redisvl", REDISVL, {"прощание": 2}),
    "config.yml": ("litellm", LITELLM, {"退款": 2, "物流": 1}),
    "nlu.yml": ("rasa", RASA, RASA_COUNTS),
    "es.zip": ("dialogflow-es", archive(DIALOGFLOW_ES), DIALOGFLOW_ES_COUNTS),
    "cx.zip": ("dialogflow-cx", archive(DIALOGFLOW_CX), DIALOGFLOW_CX_COUNTS),
    "FlowerBot_1_LEX_V1.zip": (
        "lex-v1",
        archive({"FlowerBot_1_Export.json": LEX_V1}),
        LEX_V1_COUNTS,
    ),
    "HotelBot-DRAFT-LexJson.zip": ("lex-v2", archive(LEX_V2), LEX_V2_COUNTS),
    "intents.csv": (
        "csv",
        'Intent;Utterance\nwetter;"Regen; oder Sonne?"\nwetter;wird es warm\n-;egal\n',
        {"wetter": 2},
    ),
    "intents.tsv": ("tsv", "wo ist es\tlieferung\nwann kommt es\tlieferung\n", {"lieferung": 2}),
    "intents.jsonl": ("jsonl", '{"text":"hola","intent":"saludo"}\n', {"saludo": 1}),
    "tools.json": ("openai-tools", OPENAI_TOOLS, {"get_weather": 2}),
    "mcp.json": ("mcp-tools", MCP_TOOLS, {"createTicket": 3}),
    "openapi.yaml": ("openapi", OPENAPI, {"getOrder": 2, "DELETE _orders_id_": 1}),
}  # fmt: skip
"""Files by name: their format, their content, and the utterances of the routes in them."""


def write_foreign_file(folder: Path, name: str) -> Path:
    """Write one of ``FOREIGN_FILES``."""
    content = FOREIGN_FILES[name][1]
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        path.write_text(text, encoding="utf-8")
    return path


def write_folder(folder: Path, files: Mapping[str, Any]) -> Path:
    """Write the files of an archive into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
    return folder
