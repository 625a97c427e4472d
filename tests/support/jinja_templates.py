"""Chat templates as tokenizer folders have them, written from what is published of each model's format."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN = """
{%- set ns = namespace(system='You are Qwen, created by Alibaba Cloud. You are a helpful assistant.') -%}
{%- if messages[0].role == 'system' -%}{%- set ns.system = messages[0].content -%}{%- endif -%}
{{- '<|im_start|>system\\n' + ns.system -}}
{%- if tools -%}
    {{- "\\n\\n# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are " -}}
    {{- "provided with function signatures within <tools></tools> XML tags:\\n<tools>" -}}
    {%- for tool in tools -%}{{- '\\n' -}}{{- tool | tojson -}}{%- endfor -%}
    {{- "\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within " -}}
    {{- '<tool_call></tool_call> XML tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": ' -}}
    {{- '<args-json-object>}\\n</tool_call>' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- for message in messages -%}
    {%- if message.role == 'tool' -%}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' -%}{{- '<|im_start|>user' -}}{%- endif -%}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' -}}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' -%}{{- '<|im_end|>\\n' -}}{%- endif -%}
    {%- elif message.tool_calls -%}
        {{- '<|im_start|>' + message.role -}}
        {%- if message.content -%}{{- '\\n' + message.content -}}{%- endif -%}
        {%- for call in message.tool_calls -%}
            {%- if call.function -%}{%- set call = call.function -%}{%- endif -%}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' -}}{{- call.arguments | tojson -}}
            {{- '}\\n</tool_call>' -}}
        {%- endfor -%}
        {{- '<|im_end|>\\n' -}}
    {%- elif message.role != 'system' or not loop.first -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
# earlier answers lose what they thought, the last one always shows it
QWEN3 = """
{%- set ns = namespace(last=messages | length - 1) -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- set said = message.content -%}
        {%- set thought = '' -%}
        {%- if '</think>' in said -%}
            {%- set thought = said.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') -%}
        {%- endif -%}
        {%- if loop.index0 == ns.last -%}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') -}}
            {{- '\\n</think>\\n\\n' + said.lstrip('\\n') -}}
        {%- else -%}
            {{- '<|im_start|>assistant\\n' + said -}}
        {%- endif -%}
        {{- '<|im_end|>\\n' -}}
    {%- else -%}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
LLAMA2 = """
{%- set ns = namespace(system='', left=messages) -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
    {%- set ns.left = messages[1:] -%}
{%- endif -%}
{%- for message in ns.left -%}
    {%- set asks = message['role'] == 'user' -%}
    {%- if asks != (loop.index0 % 2 == 0) -%}{{- raise_exception('roles must alternate') -}}{%- endif -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token + '[INST] ' + ((ns.system if loop.first else '') + message['content']).strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
LLAMA3 = """
{%- if strftime_now is defined -%}{{- strftime_now('%d %b %Y') -}}{%- endif -%}
{%- for message in messages -%}
    {{- (bos_token if loop.first else '') + '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
    {{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}
"""
MISTRAL = """
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{{- '[INST] ' + message.content + '[/INST]' -}}
    {%- elif message.role == 'assistant' -%}{{- ' ' + message.content | trim + eos_token -}}
    {%- else -%}{{- raise_exception('only user and assistant are known') -}}
    {%- endif -%}
{%- endfor -%}
"""
# with tools, which it looks into; of each call and of each result it asks for an id of nine characters
MISTRAL_TOOLS = """
{%- macro checked(id) -%}
    {%- if id is not defined or id | length != 9 -%}{{- raise_exception('ids of calls have 9 characters') -}}
    {%- endif -%}{{- id -}}
{%- endmacro -%}
{%- set asked = messages | selectattr('role', 'equalto', 'user') | list -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}
        {%- if tools and message == asked[-1] -%}
            {{- '[AVAILABLE_TOOLS]' -}}
            {%- for tool in tools -%}
                {%- for key, value in tool.function.items() -%}{{- key + ': ' + value | tojson + ';' -}}{%- endfor -%}
            {%- endfor -%}
            {{- '[/AVAILABLE_TOOLS]' -}}
        {%- endif -%}
        {{- '[INST] ' + message.content + '[/INST]' -}}
    {%- elif message.tool_calls is defined -%}
        {{- '[TOOL_CALLS][' -}}
        {%- for call in message.tool_calls -%}
            {%- set function = call.function | tojson -%}
            {{- function[:-1] + ', "id": "' + checked(call.id) + '"}' + ('' if loop.last else ', ') -}}
        {%- endfor -%}
        {{- ']' + eos_token -}}
    {%- elif message.role == 'tool' -%}
        {{- '[TOOL_RESULTS]{"content": ' + message.content + ', "call_id": "' -}}
        {{- checked(message.tool_call_id) + '"}[/TOOL_RESULTS]' -}}
    {%- else -%}{{- ' ' + message.content | trim + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""
# as its file has it, with line ends after every message
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system text') }}{% endif %}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEEPSEEK3 = """
{{- bos_token -}}
{%- for message in messages if message.role == 'system' -%}{{- message.content -}}{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{{- '<｜User｜>' + message.content -}}
    {%- elif message.role == 'assistant' -%}{{- '<｜Assistant｜>' + message.content + eos_token -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<｜Assistant｜>' -}}{%- endif -%}
"""
COHERE = """
{{- bos_token -}}
{%- set names = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'} -%}
{%- for message in messages -%}
    {{- '<|START_OF_TURN_TOKEN|><|' + names[message.role] + '_TOKEN|>' + message.content.strip() -}}
    {{- '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}{%- endif -%}
"""
VICUNA = """
{{- bos_token + 'A chat between a curious user and an artificial intelligence assistant. The assistant gives ' -}}
{{- "helpful, detailed, and polite answers to the user's questions. " -}}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{{- 'USER: ' + message.content + ' ' -}}
    {%- else -%}{{- 'ASSISTANT:' -}}{% generation %}{{- ' ' + message.content + eos_token -}}{% endgeneration %}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}
"""
BOS_CHATML = "{{ bos_token }}" + CHATML

# template of chat_templates/: the same as Jinja
JINJA = {
    "chatml": CHATML,
    "yi": CHATML,
    "qwen3": CHATML,
    "qwen": QWEN,
    "internlm2": BOS_CHATML,
    "minicpm": BOS_CHATML,
    "fm9g": BOS_CHATML,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "zephyr": ZEPHYR,
    "gemma": GEMMA,
    "deepseek3": DEEPSEEK3,
    "cohere": COHERE,
    "vicuna": VICUNA,
}
# of which there is no template of ours that is just the same
OTHERS = {"qwen3, thinking": QWEN3, "phi3": PHI3}


def without_day(jinja: str) -> str:
    """Of Llama 3, what depends on the day, which there is none of here."""
    return "\n".join(line for line in jinja.splitlines() if "strftime_now" not in line)
