# Source it with the folder of a script's outputs, and what they are made of: it ends the script where they are of other
# things, which would go into one run without a word.
if [ -f "$1/made_of" ] && [ "$(cat "$1/made_of")" != "$2" ]; then
  echo "error: $1 is made of $(cat "$1/made_of"): move it away, or remove it, to begin with $2" >&2
  exit 1
fi
mkdir -p "$1"
echo "$2" > "$1/made_of"
