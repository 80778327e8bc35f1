"""Settings that all tasks share: hooks, logging and processes. The schedules set how often checkpoints are written."""

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=3),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"

env_cfg = dict(
    cudnn_benchmark=False,  # image sizes change from step to step, so searching for the fastest kernel never pays off
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),  # workers are processes already; no threads inside them
    dist_cfg=dict(backend="nccl", timeout=1800),  # seconds to wait for a process that is gone or stuck
)

load_from = None
resume = False
