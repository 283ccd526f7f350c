#!/bin/sh
# The studies of docs/results.md, one after the other; what is done is found, so that it can be stopped and started again.
#   experiments/studies/run.sh clipart PICTURES STORE      PICTURES: what examples/clipart/fetch.sh prints
#   experiments/studies/run.sh icons TARS STORE            TARS: what examples/icons/fetch.sh prints
# Both may run beside each other: every training takes one core. Run it from the top of the repository.
set -eu

name=$1
data=$2
store=$3
drrho=${DRRHO:-.venv/bin/drrho}
export OMP_NUM_THREADS=1

# do_step COMMAND DATASET [ARGUMENT ...]
do_step() {
    command=$1
    dataset=$2
    shift 2
    # shellcheck disable=SC2086 # a command may be of two words
    $drrho $command --config "experiments/studies/$name.yaml" --store "$store" --dataset "$dataset" "$@"
}

# What differs between the two: how the reference is trained (by OpenCLIP's loss, on the pairs whose captions are right), and what
# the methods of a smaller study set for themselves: `settings` names methods of the study alone.
case $name in
clipart)
    reference='--architecture drrho-tiny --samples 102400 --set temperature=0.2 --set learning_rate=1e-3'
    three='openclip.temperature=0.2,fastclip.temperature=0.1,drrho.temperature=0.2,drrho.eps=1.0'
    ;;
icons)
    reference='--samples 256000 --set temperature=0.1 --set learn_temperature=no --set warmup_steps=50'
    three='openclip.temperature=0.1,fastclip.temperature=0.1,drrho.temperature=0.1,drrho.eps=0.1'
    ;;
*) echo "There are the studies clipart and icons, not '$name'." >&2 && exit 2 ;;
esac

do_step ingest "$name" --set path="$data"
do_step ingest "$name-clean-part" --set path="$data" --set caption_noise_part=clean
do_step ingest "$name-clean" --set path="$data" --set caption_noise=0
# shellcheck disable=SC2086 # several arguments
do_step train "$name-clean-part" --run "$name-reference" --method openclip --set train.reference= $reference
for dataset in "$name" "$name-clean"; do
    do_step reference "$dataset" --model "run:$name-reference" --set name=clean
done

do_step 'study comparison' "$name"
if [ "$name" = clipart ]; then
    do_step 'study comparison' clipart-clean --set curve_points=0
    # As long as JEST takes for the samples of the comparison.
    do_step 'study comparison' clipart --set name=clipart-longer --methods drrho --set baseline=drrho \
        --set settings="${three#*,*,}" --set train.samples=153600 --set curve_points=0
    do_step 'study weak-to-strong' clipart --methods openclip,fastclip,drrho --weak drrho-nano --set settings="$three" --set curve_points=0
    # Weak references that know something: right captions, and four times as long.
    do_step 'study weak-to-strong' clipart-clean --methods fastclip,drrho --weak drrho-nano --set weak_samples=102400 \
        --set train.samples=153600 --set settings="${three#*,}" --set curve_points=0
    do_step train clipart-clean-part --run clipart-weak --method openclip --set train.reference= --architecture drrho-nano \
        --samples 102400 --set temperature=0.2 --set learning_rate=1e-3
    do_step reference clipart --model run:clipart-weak --set name=weak
    do_step 'study weak-to-strong' clipart --set name=clipart-weak-but-right --methods fastclip,drrho --set references=weak \
        --set train.samples=153600 --set settings="${three#*,}" --set curve_points=0
    do_step 'study weak-to-strong' clipart --set name=clipart-weak-but-right-auto --methods drrho --set baseline=drrho --set references=weak \
        --set train.samples=153600 --set settings=drrho.temperature=auto,drrho.eps=auto --set curve_points=0
else
    do_step 'study data-efficiency' icons --methods fastclip,drrho --fractions 0.01,0.03,0.1,1 --set settings="${three#*,}"
    do_step 'study scaling' icons --methods openclip,fastclip,drrho --set settings="$three" --set predict=1e4 \
        --architectures drrho-resnet-4,drrho-resnet-8,drrho-resnet-16 --budgets 9600,19200,38400
    do_step 'study comparison' icons-clean
fi
