"""The text side of a model: tokens to text and back, chat templates, stop strings, and the parser of answers.

`output/` splits the text of an answer into content, reasoning and calls. Of a request this package reads only
the messages. It sends nothing to runtimes.
"""

#: What other packages may import, by module.
FACE = {
    "detokenizer": ("Detokenizer",),
    "function": ("ChoiceMode", "Function", "FunctionChoice"),
    "model_text": ("ModelText", "check_token_ids"),
    "output.events": ("CallArguments", "CallBegin", "CallEnd", "Content", "Event", "Reasoning"),
    "output.format_choice": ("REASONING_PARSERS", "TOOL_PARSERS", "choose_format"),
    "output.format_types": ("HARMONY_CALLS", "HarmonyCalls", "ToolFormat"),
    "output.formats": ("OutputFormat",),
    "output.json_strings": ("StringDecoder",),
    "output.parser": ("OutputParser",),
    "output.tool_families": ("JSON_ARRAY",),
    "stop": ("StopStrings",),
    "stop_regex": ("StopPatterns", "compile_stop_regex"),
    "template": ("ChatTemplate", "Conversation"),
    "tokenizer": ("Tokenizer", "TokenizerError"),
}
